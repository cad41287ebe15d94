"""Draws a portrait layer by layer, from the background to the whiskers; one function per part.

Every portrait shares one anatomy. Species differ in its numbers (``anatomy.ADULT``) and in a
few parts of their own (mane, muzzle, stripes, stitches), which cost nothing when nobody in the
chunk has them.
"""

import torch
from torch import Tensor

from airlib.tinyworld import face
from airlib.tinyworld.attributes import Attributes
from airlib.tinyworld.shapes import Bulge, Canvas, both, capsule, ellipse, rgb, strip
from airlib.tinyworld.sitter import Sitter
from airlib.tinyworld.styles import Look


def draw_portrait(attributes: Attributes, look: Look, size: int) -> tuple[Canvas, Sitter]:
    """The unstyled portrait of n sitters: canvas layers in [0, 1], and the sitters' geometry."""
    sitter = Sitter(attributes, look, size)
    canvas = Canvas(
        background(sitter, size),
        sitter.x,
        sitter.y,
        (sitter.traits.light_x, sitter.traits.light_y),
        sitter.look,
    )
    for draw_part in PARTS:
        draw_part(canvas, sitter)
    canvas.image, canvas.ink = canvas.image.clamp(0, 1), canvas.ink.clamp(0, 1)
    return canvas, sitter


def background(sitter: Sitter, size: int) -> Tensor:
    """A plain wall with soft out-of-focus patches: images [n, 3, size, size]."""
    patches = sitter.patches(size) * sitter.look.bokeh
    return sitter.traits.background_color.clamp(0.03, 0.97) + patches[:, None]


def back_hair(canvas: Canvas, s: Sitter) -> None:
    """The hair behind the head of humans and zombies, down to its length."""
    length = s.traits.hair_length * (1 - s.baby) * s.human_like
    width, height = s.width * (1.12 + 0.12 * length), s.height * (1.02 + 0.38 * length)
    shape = ellipse(s.x, s.y, 0.0, -0.05 + length * 0.35, width, height)
    visible = (length > 0.02).float()
    canvas.paint(shape, s.hair * 0.85, visible, bulge=Bulge(s.height, 0.0))


def body(canvas: Canvas, s: Sitter) -> None:
    """Shoulders, dressed or furred, and the neck of humans and zombies."""
    # The body leans half-heartedly with the head.
    x = s.upright_x * 0.85 + s.x * 0.15
    width = s.anatomy.body_width * 0.98
    shape = ellipse(x, s.upright_y, 0.0, s.height + 0.62, width, 0.68)
    canvas.paint(shape, s.body, bulge=Bulge(0.6, s.height + 0.6))
    neck = both(strip(s.x, s.width * 0.40), strip(s.upright_y - s.height * 1.05, 0.22))
    canvas.paint(neck, s.coat * 0.86, s.human_like, outline=0.5)


def mane(canvas: Canvas, s: Sitter) -> None:
    """The shaggy mane of a werewolf."""
    werewolf = s.is_a("werewolf")
    if not werewolf.any():
        return
    shape = ellipse(s.x, s.y, 0.0, 0.05, s.width * 1.22, s.height * 1.12)
    shape = shape + 0.035 * torch.sin(s.angle * 22 + s.traits.gaze * 9)
    canvas.paint(shape, s.coat * 0.8, werewolf, bulge=Bulge(s.height, 0.0))


def _ears(s: Sitter) -> tuple[Tensor, Bulge]:
    a = s.anatomy
    base = (a.ear_base_x * s.width, a.ear_base_y * s.height)
    tip = (a.ear_tip_x * s.width, a.ear_tip_y * s.height)
    x = (s.x + 0.25 * s.traits.yaw).abs()
    shape = capsule(x, s.y, base, tip, a.ear_base_radius, a.ear_tip_radius)
    return shape, Bulge(s.width * 1.3, base[1])


def ears_behind_head(canvas: Canvas, s: Sitter) -> None:
    """The ears of every species but dogs, with their inside."""
    shape, bulge = _ears(s)
    behind = 1 - s.is_a("dog")
    canvas.paint(shape, s.coat * 0.92, behind, bulge=bulge)
    inside = s.coat * 0.5 + 0.5 * rgb(0.85, 0.55, 0.52)
    canvas.paint(shape + 0.055, inside, s.anatomy.ear_inside * behind * 0.85, outline=0.3)


def head(canvas: Canvas, s: Sitter) -> None:
    """The head, in the colour of the skin or the fur."""
    canvas.paint(s.head, s.coat, bulge=Bulge(s.height, 0.0))


def beard(canvas: Canvas, s: Sitter) -> None:
    """A beard around the lower face."""
    if not s.traits.beard.any():
        return
    opening = ellipse(s.face_x, s.face_y, 0.0, -s.height * 0.12, s.width * 0.86, s.height * 0.62)
    canvas.paint(both(s.head - 0.015, -opening), s.hair * 0.95, s.traits.beard * 0.92, outline=0.3)


def front_hair(canvas: Canvas, s: Sitter) -> None:
    """The hair on the scalp of humans and zombies, down to hairline and parting."""
    if not s.human_like.any():
        return
    line = s.traits.hairline
    hairline = -s.height * (0.42 + 0.22 * line + 0.25 * s.baby)
    fringe = 0.28 * (s.face_x / s.width) ** 2 * s.height * (1 - 0.9 * s.baby)
    parting = 0.10 * s.face_x * (line - 0.5) * 2
    scalp = ellipse(s.tapered_x, s.y, 0.0, -0.035, s.width * 1.07, s.height * 1.06)
    shape = both(scalp, s.y - hairline - fringe + parting)
    bulge = Bulge(s.height, -s.height * 0.3)
    canvas.paint(shape, s.hair, s.human_like * (1 - 0.75 * s.baby), bulge=bulge)


def floppy_ears(canvas: Canvas, s: Sitter) -> None:
    """The ears of a dog, which hang in front of the head."""
    dog = s.is_a("dog")
    if dog.any():
        shape, bulge = _ears(s)
        canvas.paint(shape, s.coat * 0.80, dog, bulge=bulge)


# From back to front.
PARTS = (
    back_hair,
    body,
    mane,
    ears_behind_head,
    head,
    face.face_patches,
    face.stripes,
    face.blush,
    face.muzzle,
    face.wrinkles,
    beard,
    front_hair,
    floppy_ears,
    face.eyes,
    face.nose,
    face.mouth,
    face.snout_details,
    face.stitches,
)
