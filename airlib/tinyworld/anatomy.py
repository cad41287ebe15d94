"""The anatomy of each species: where eyes, ears, nose and mouth sit and how large they are.

One table describes all species, so a dog is a human with other numbers: adult values by
species, how far a latent moves them, what youth does to them, and larger eyes where a style
draws them larger.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from airlib.tinyworld.domains import AGES, STYLES

# Anatomy of an adult of each species. Lengths of the eyes, body and ear radii are in units of
# half the image; positions and the other lengths in units of the head's half width or height;
# "opacity" rows and those from "fangs" on, body_width aside, say how visible a feature is.
# fmt: off
ADULT = {
    #                  human   dog    cat  werewolf zombie  fox    bear  rabbit monkey
    "head_width":      ( .40,  .44,   .47,   .43,   .40,   .50,   .50,   .40,   .45),
    "head_height":     ( .52,  .48,   .43,   .54,   .53,   .42,   .48,   .44,   .46),
    "jaw_taper":       ( .34,  .25,  -.05,   .22,   .42,   .55,   .00,   .05,   .05),
    "head_drop":       (-.04, -.02,   .02,  -.02,  -.04,   .00,   .00,   .16,   .00),
    "ear_base_x":      ( .98,  .82,   .62,   .70,   .98,   .66,   .74,   .34,  1.00),
    "ear_base_y":      ( .02, -.62,  -.72,  -.66,   .02,  -.66,  -.72,  -.70,  -.10),
    "ear_tip_x":       (1.06, 1.16,   .86,  1.08,  1.05,   .92,   .84,   .48,  1.10),
    "ear_tip_y":       ( .12,  .28, -1.42, -1.30,   .10, -1.42,  -.84, -1.85,  -.10),
    "ear_base_radius": ( .07,  .15,   .19,   .17,   .06,   .19,   .18,   .12,   .20),
    "ear_tip_radius":  ( .07,  .13,  .015,   .01,   .05,   .02,   .18,   .10,   .20),
    "eye_x":           ( .40,  .42,   .46,   .40,   .40,   .42,   .36,   .50,   .32),
    "eye_y":           (-.05, -.12,  -.08,  -.16,  -.05,  -.06,  -.10,  -.10,  -.14),
    "eye_radius":      ( .09, .095,  .115,   .08,   .10,   .08,   .06,   .10,   .08),
    "muzzle_y":        ( .45,  .42,   .42,   .42,   .45,   .48,   .40,   .42,   .44),
    "muzzle_width":    ( .30,  .50,   .40,   .46,   .30,   .42,   .42,   .34,   .60),
    "muzzle_height":   ( .25,  .36,   .26,   .38,   .25,   .34,   .34,   .26,   .46),
    "muzzle_opacity":  ( .00,  .80,   .60,   .90,   .00,   .90,   .90,   .60,  1.00),
    "nose_y":          ( .26,  .22,   .26,   .22,   .26,   .46,   .24,   .24,   .22),
    "nose_width":      ( .10,  .20,   .11,   .20,   .10,   .13,   .20,   .11,   .14),
    "nose_height":     ( .13,  .13,   .08,   .12,   .10,   .10,   .13,   .07,   .07),
    "nose_opacity":    ( .00, 1.00,   .70,  1.00,   .35,  1.00,  1.00,   .50,   .40),
    "mouth_y":         ( .56,  .62,   .50,   .60,   .58,   .66,   .60,   .46,   .62),
    "mouth_width":     ( .34,  .34,   .26,   .44,   .36,   .24,   .26,   .18,   .42),
    "fangs":           ( .00,  .00,   .00,  1.00,   .40,   .00,   .00,   .00,   .00),
    "whiskers":        ( .00,  .00,  1.00,   .00,   .00,   .30,   .00,   .80,   .00),
    "brows":           (1.00,  .00,   .00,  1.00,   .60,   .00,   .00,   .00,   .30),
    "pupil_slit":      ( .00,  .00,  1.00,   .30,   .00,   .80,   .00,   .00,   .00),
    "body_width":      ( .62,  .55,   .50,   .74,   .62,   .48,   .70,   .46,   .50),
    "ear_inside":      ( .40,  .20,   .90,   .50,   .20,   .80,   .60,   .90,   .80),
}
# What youth does to it: adult value * scale + shift.
BABY = {
    "head_width": (1.04, 0), "head_height": (.88, 0), "jaw_taper": (0, -.08),
    "head_drop": (1, .03), "ear_base_radius": (.9, 0), "eye_y": (1, .16), "eye_radius": (1.3, 0),
    "muzzle_width": (.82, 0), "muzzle_height": (.72, 0), "nose_y": (1, .10),
    "nose_width": (.8, 0), "nose_height": (.72, 0), "mouth_y": (1, .05), "mouth_width": (.8, 0),
    "fangs": (.3, 0), "brows": (.45, 0), "body_width": (.72, 0),
}
EYE_SCALE = {"cartoon": 1.22, "pixar": 1.5}  # drawn characters have larger eyes
# fmt: on
# How far one latent number moves each part of the head, in units of half the image.
SHAPE_JITTER = {
    "head_width": 0.025,
    "head_height": 0.025,
    "jaw_taper": 0.07,
    "ear_base_y": 0.04,
    "ear_tip_x": 0.05,
    "eye_x": 0.025,
    "eye_y": 0.03,
    "eye_radius": 0.008,
    "nose_y": 0.02,
    "nose_width": 0.012,
    "mouth_width": 0.04,
}


@dataclass(frozen=True)
class Rows:
    """A dataclass whose fields are tensors with the same first dimension, or such rows again.

    `rows[i]` takes the rows `i`, a slice or an index tensor, of every tensor.
    """

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """New rows with ``function`` applied to every tensor, also in nested rows."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return type(self)(
            **{
                k: v.map(function) if isinstance(v, Rows) else function(v)
                for k, v in values.items()
            }
        )

    def __getitem__(self, rows: slice | Tensor) -> Self:
        return self.map(lambda tensor: tensor[rows])

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))


@dataclass(frozen=True)
class Anatomy(Rows):
    """The measures of n heads, each [n]: the columns of ``ADULT`` after jitter, age and style.

    Eyes, body and ear radii are in units of half the image, positions and other lengths in units of
    the head's half width or height; opacities, and what follows "mouth_width", say how visible a
    feature is (0 .. 1), body_width aside.
    """

    head_width: Tensor
    head_height: Tensor
    jaw_taper: Tensor
    head_drop: Tensor
    ear_base_x: Tensor
    ear_base_y: Tensor
    ear_tip_x: Tensor
    ear_tip_y: Tensor
    ear_base_radius: Tensor
    ear_tip_radius: Tensor
    eye_x: Tensor
    eye_y: Tensor
    eye_radius: Tensor
    muzzle_y: Tensor
    muzzle_width: Tensor
    muzzle_height: Tensor
    muzzle_opacity: Tensor
    nose_y: Tensor
    nose_width: Tensor
    nose_height: Tensor
    nose_opacity: Tensor
    mouth_y: Tensor
    mouth_width: Tensor
    fangs: Tensor
    whiskers: Tensor
    brows: Tensor
    pupil_slit: Tensor
    body_width: Tensor
    ear_inside: Tensor


def anatomy(jitter: Tensor, species: Tensor, age: Tensor, style: Tensor) -> Anatomy:
    """The anatomy of n sitters, from the indices [n] of their species, ages and styles.

    jitter: a row [n] of normal numbers for each entry of ``SHAPE_JITTER``.
    """
    baby = (age == AGES.index("baby")).float()
    shape = {name: torch.tensor(values)[species] for name, values in ADULT.items()}
    for row, (name, amount) in zip(jitter, SHAPE_JITTER.items(), strict=True):
        shape[name] = shape[name] + amount * row
    for name, (scale, shift) in BABY.items():
        shape[name] = shape[name] * (1 + baby * (scale - 1)) + baby * shift
    eye_scale = torch.tensor([EYE_SCALE.get(name, 1.0) for name in STYLES])
    shape["eye_radius"] = shape["eye_radius"] * eye_scale[style]
    return Anatomy(**shape)
