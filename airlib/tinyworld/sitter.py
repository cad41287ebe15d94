"""The geometry and colours of the people and animals in one chunk, for all parts to share.

``Sitter`` holds the attributes broadcast over pixels, three coordinate frames (upright, the
head's, which is rotated, and the face's, which also follows the turn of the head) and the
colours that follow from species, skin, fur and age.
"""

from functools import lru_cache, reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from airlib.tinyworld.attributes import Attributes
from airlib.tinyworld.domains import AGES, SPECIES
from airlib.tinyworld.shapes import ellipse, pixel_grid, rgb
from airlib.tinyworld.styles import Look


class Sitter:
    """The n people and animals of a chunk: attributes over pixels, coordinate frames, palette.

    Attributes are [n, 1, 1] (colours [n, 3, 1, 1]), coordinates [n, size, size].
    """

    def __init__(self, attributes: Attributes, look: Look, size: int):
        self.traits = t = attributes.map(_over_pixels)
        self.anatomy = a = t.anatomy
        self.look = look
        self.baby = (t.age == AGES.index("baby")).float()
        self.elderly = (t.age == AGES.index("elderly")).float()
        self.human_like = self.is_a("human", "zombie")
        self.width, self.height = a.head_width, a.head_height
        self._place_frames(size)
        self._mix_colors()

    def is_a(self, *species: str) -> Tensor:
        """Which sitters are of one of these species: 1 for those, else 0; float [n, 1, 1]."""
        known = self.traits.species
        return reduce(torch.add, [(known == SPECIES.index(name)).float() for name in species])

    def patches(self, size: int) -> Tensor:
        """Smooth spots [n, size, size], like an out-of-focus background.

        They are four fixed patterns, weighted for each sitter.
        """
        patterns = _spots(size)
        weighted = [self.traits.bokeh[:, k] * patterns[k] for k in range(len(patterns))]
        return reduce(torch.add, weighted) * 0.6

    def _place_frames(self, size: int) -> None:
        t, grid = self.traits, pixel_grid(size)
        upright_x = (grid[0] - t.center_x) / t.scale
        upright_y = (grid[1] - t.center_y - self.anatomy.head_drop) / t.scale
        cos, sin = torch.cos(t.rotation), torch.sin(t.rotation)
        self.upright_x, self.upright_y = upright_x, upright_y
        self.x = cos * upright_x + sin * upright_y
        self.y = -sin * upright_x + cos * upright_y
        self.angle = torch.atan2(self.y, self.x)
        # The jaw narrows the head towards the chin; babies have full cheeks.
        taper = 1 - self.anatomy.jaw_taper * (self.y / self.height).clamp(-0.1, 1.2)
        cheek = 1 + 0.10 * self.baby * torch.exp(-(((self.y / self.height - 0.45) / 0.3) ** 2))
        self.tapered_x = self.x / (taper.clamp_min(0.3) * cheek)
        self.head = ellipse(self.tapered_x, self.y, 0.0, 0.0, self.width, self.height)
        fur_edge = 0.008 * torch.sin(self.angle * 30 + t.gaze * 20)
        self.head = self.head + (1 - self.human_like) * fur_edge
        self.yaw = t.yaw * self.width * 1.2
        toward_edge = (self.tapered_x / self.width).abs().clamp(0, 1)
        self.face_x = self.x - self.yaw * (1 - 0.3 * toward_edge)
        self.face_y = self.y - t.pitch * self.height
        self.side = self.face_x.abs()  # both halves of the face at once

    def _mix_colors(self) -> None:
        t, human, zombie = self.traits, self.is_a("human"), self.is_a("zombie")
        pale, dark = rgb(0.96, 0.80, 0.68), rgb(0.52, 0.52, 0.50)
        skin = pale - dark * t.skin[:, None]
        skin = skin + rgb(0.02, -0.01, -0.02) * self.baby[:, None]
        dead_skin = rgb(0.50, 0.62, 0.46) - rgb(0.15, 0.12, 0.15) * t.skin[:, None]
        coat = torch.where(on(human), skin, torch.where(on(zombie), dead_skin, t.fur_color))
        self.coat = coat = (coat + t.color_shift).clamp(0.04, 1)
        self.light_coat = (coat * 0.45 + 0.55 * rgb(0.95, 0.90, 0.82)).clamp(0, 1)
        self.hair = torch.where(on(self.human_like), t.hair_color, t.fur_color * 0.8)
        monkey_face = rgb(0.80, 0.62, 0.48) + t.color_shift
        muzzle = torch.where(on(self.is_a("monkey")), monkey_face, self.light_coat)
        muzzle = torch.where(on(self.is_a("werewolf")), coat * 1.35 + 0.03, muzzle)
        self.muzzle = muzzle.clamp(0, 1)
        dressed = self.is_a("human", "zombie", "werewolf")
        self.body = torch.where(on(dressed), t.cloth_color, coat * 0.92)


def on(mask: Tensor) -> Tensor:
    """The mask [n, 1, 1] as a condition [n, 1, 1, 1] for colours [n, 3, 1, 1]."""
    return mask.bool()[:, None]


@lru_cache(maxsize=8)
def _spots(size: int) -> Tensor:
    """Four fixed random patterns [4, size, size] of zero mean and unit scale."""
    noise = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(7))
    return F.interpolate(noise, size=(size, size), mode="bicubic", align_corners=False)[:, 0]


def _over_pixels(tensor: Tensor) -> Tensor:
    """[n] -> [n, 1, 1] and [n, 3] -> [n, 3, 1, 1]; booleans stay boolean."""
    return tensor.reshape(*tensor.shape, 1, 1)
