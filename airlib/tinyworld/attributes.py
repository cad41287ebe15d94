"""From a latent vector to the attributes of a portrait: pose, light, colours, shape, mood.

A latent is 64 independent standard normal numbers. Each attribute reads its own few of them
(``LATENT``), so it is a function of one latent row and one domain, of nothing else. The domain
decides what an attribute means (hair for humans, fur for a dog), never which number it reads:
two domains rendered from the same latent are two portraits of the same sitter.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from airlib.errors import AirlibError
from airlib.tinyworld.anatomy import SHAPE_JITTER, Anatomy, Rows, anatomy
from airlib.tinyworld.domains import AGES, SPECIES, Domain, domain_rows

LATENT_DIM = 64

# Which attribute reads how many latent numbers, in order; the rest of the 64 is unused.
_LATENT_WIDTHS = {
    "skin": 1,
    "gender": 1,
    "hair_length": 1,
    "hair": 1,
    "fur": 1,
    "background": 3,
    "cloth": 3,
    "eyes": 1,
    "color_shift": 3,
    "shape": len(SHAPE_JITTER),
    "pose": 6,
    "light": 3,
    "gaze": 1,
    "hairline": 1,
    "mood": 1,
    "surprise": 1,
    "glasses": 1,
    "beard": 1,
    "stripes": 1,
    "bokeh": 4,
    "eye_patch": 1,
}
_STARTS = [sum(list(_LATENT_WIDTHS.values())[:i]) for i in range(len(_LATENT_WIDTHS))]
LATENT = {
    name: slice(start, start + width)
    for start, (name, width) in zip(_STARTS, _LATENT_WIDTHS.items(), strict=True)
}

# fmt: off
HAIR_COLORS = {
    "black": (.10, .09, .10), "brown": (.33, .20, .11), "blond": (.86, .68, .34),
    "red": (.66, .25, .09), "grey": (.66, .66, .68),
}
EYE_COLORS = {
    "brown": (.30, .17, .08), "blue": (.25, .48, .78), "green": (.28, .55, .30),
    "yellow": (.95, .78, .10),
}
# A path of five colours per species, along which the fur varies.
FUR_COLORS = {
    "dog": ((.80, .58, .28), (.45, .28, .15), (.16, .15, .16), (.90, .88, .84), (.55, .53, .52)),
    "cat": ((.88, .52, .20), (.52, .53, .57), (.13, .12, .14), (.93, .92, .90), (.50, .37, .24)),
    "werewolf": ((.20, .17, .16), (.32, .22, .15), (.38, .38, .41), (.16, .14, .15),
                 (.27, .18, .12)),
    "fox": ((.88, .42, .12), (.78, .30, .10), (.92, .50, .18), (.72, .34, .15), (.85, .45, .14)),
    "bear": ((.40, .25, .13), (.15, .12, .11), (.50, .32, .17), (.90, .88, .83), (.34, .20, .11)),
    "rabbit": ((.94, .92, .91), (.62, .60, .60), (.60, .45, .32), (.90, .88, .88),
               (.82, .72, .58)),
    "monkey": ((.36, .22, .12), (.20, .14, .10), (.45, .28, .15), (.30, .18, .10),
               (.62, .44, .20)),
}
# fmt: on


@dataclass(frozen=True)
class Attributes(Rows):
    """All that the renderer draws. Tensors [n] unless noted; colours are RGB in [0, 1].

    Features that come and go (smile, glasses, ...) are degrees in [0, 1], so that a
    portrait is a continuous function of its latent.
    """

    species: Tensor  # integer, index into SPECIES
    age: Tensor
    style: Tensor
    anatomy: Anatomy
    skin: Tensor  # darkness of the skin
    female: Tensor  # bool
    hair_length: Tensor
    hairline: Tensor
    hair_color: Tensor  # [n, 3]
    fur_color: Tensor  # [n, 3]
    eye_color: Tensor  # [n, 3]
    cloth_color: Tensor  # [n, 3]
    background_color: Tensor  # [n, 3]
    color_shift: Tensor  # [n, 3], added to skin or fur
    bokeh: Tensor  # [n, 4], weights of the blurred background patterns
    smile: Tensor
    toothy: Tensor  # bool: a smile shows the teeth
    sadness: Tensor
    surprise: Tensor
    glasses: Tensor
    beard: Tensor
    stripes: Tensor
    eye_patch: Tensor
    center_x: Tensor  # pose: position, rotation (radians), scale, turn of the head
    center_y: Tensor
    rotation: Tensor
    scale: Tensor
    yaw: Tensor
    pitch: Tensor
    light_x: Tensor
    light_y: Tensor
    brightness: Tensor
    gaze: Tensor


def attributes_from_latent(z: Tensor, domains: Tensor | Domain) -> Attributes:
    """The attributes of the portraits that latents [n, 64] (standard normal) have in domains.

    domains: LongTensor [n, 3] of ``Domain.index`` rows, or one Domain for all. Each latent is first
    scaled to unit second moment, as StyleGAN2's mapping network does. Raises AirlibError if shapes
    or domain indices are wrong.
    """
    if z.ndim != 2 or z.shape[1] != LATENT_DIM:
        raise AirlibError(f"expected latents of shape [n, {LATENT_DIM}], got {list(z.shape)}")
    species, age, style = domain_rows(domains, len(z)).unbind(1)
    # In double precision, rounded once at the end: vector instructions treat the tail of a tensor
    # differently in the last bit, and a portrait must not depend on its place in the batch.
    z = z.double()
    z = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
    part = {name: z[:, columns].t() for name, columns in LATENT.items()}
    one = {name: rows[0] for name, rows in part.items()}
    human = species == SPECIES.index("human")
    human_like = human | (species == SPECIES.index("zombie"))
    grown_human = human & (age != AGES.index("baby"))
    femininity = torch.sigmoid(6 * one["gender"])
    pose, light = part["pose"], part["light"]
    exact = Attributes(
        species=species,
        age=age,
        style=style,
        anatomy=anatomy(part["shape"], species, age, style),
        skin=_uniform(one["skin"]),
        female=(one["gender"] > 0) & human_like,
        hair_length=femininity * (0.45 + 0.5 * _uniform(one["hair_length"]))
        + (1 - femininity) * 0.12,
        hairline=_uniform(one["hairline"]),
        **_colors(part, species, age),
        bokeh=part["bokeh"].t(),
        smile=torch.sigmoid(5 * (one["mood"] + 0.1)),
        toothy=one["hairline"] > 0,
        sadness=torch.sigmoid(6 * (-one["mood"] - 0.8)),
        surprise=torch.sigmoid(9 * (one["surprise"] - 1.2)),
        glasses=torch.sigmoid(14 * (one["glasses"] - 1.1)) * grown_human,
        beard=torch.sigmoid(10 * (one["beard"] - 0.4)) * grown_human * (1 - femininity),
        stripes=torch.sigmoid(8 * one["stripes"]) * (species == SPECIES.index("cat")),
        eye_patch=torch.sigmoid(8 * one["eye_patch"]) * (species == SPECIES.index("dog")),
        center_x=0.02 * pose[0],
        center_y=0.015 * pose[1] + 0.04,
        rotation=0.035 * pose[2],
        scale=1.12 + 0.025 * pose[3],
        yaw=0.09 * pose[4],
        pitch=0.03 * pose[5],
        light_x=0.7 * light[0].clamp(-1.5, 1.5),
        light_y=-0.5 + 0.3 * light[1],
        brightness=1 + 0.06 * light[2],
        gaze=0.25 * one["gaze"].clamp(-1.6, 1.6),
    )
    return exact.map(lambda tensor: tensor.float() if tensor.is_floating_point() else tensor)


def _colors(part: dict[str, Tensor], species: Tensor, age: Tensor) -> dict[str, Tensor]:
    n = len(species)
    hair = torch.tensor(list(HAIR_COLORS.values()))
    eyes = torch.tensor(list(EYE_COLORS.values()))
    fur = torch.tensor([FUR_COLORS.get(name, ((0.0, 0.0, 0.0),) * 5) for name in SPECIES])
    hair_color = _along(hair[:4].expand(n, 4, 3), _uniform(part["hair"][0]))
    greyed = 0.15 * hair_color + 0.85 * hair[4]
    eye_color = _along(eyes[:3].expand(n, 3, 3), _uniform(part["eyes"][0]))
    elderly = (age == AGES.index("elderly"))[:, None]
    werewolf = (species == SPECIES.index("werewolf"))[:, None]
    return dict(
        hair_color=torch.where(elderly, greyed, hair_color),
        fur_color=_along(fur[species], _uniform(part["fur"][0])),
        eye_color=torch.where(werewolf, eyes[3], eye_color),
        cloth_color=torch.sigmoid(1.6 * part["cloth"] - 0.3).t(),
        background_color=torch.sigmoid(1.1 * part["background"] + 0.4).t(),
        color_shift=0.03 * part["color_shift"].t(),
    )


def _uniform(normal: Tensor) -> Tensor:
    """Standard normal -> uniform in (0, 1), by the normal distribution function."""
    return 0.5 * (1 + torch.erf(normal / math.sqrt(2)))


def _along(path: Tensor, position: Tensor) -> Tensor:
    """Colour at ``position`` [n] in [0, 1] along each path [n, k, 3], dwelling on its stops."""
    steps = path.shape[1] - 1
    position = position * steps * 0.9999
    stop = position.floor().long()
    blend = ((position - stop - 0.5) * 2.2 + 0.5).clamp(0, 1)[:, None]
    row = torch.arange(len(path))
    return path[row, stop] * (1 - blend) + path[row, (stop + 1).clamp(max=steps)] * blend
