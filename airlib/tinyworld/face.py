"""The parts inside the face: markings, muzzle, eyes, nose, mouth and what decorates them.

All of them live in the face frame of the sitter (``face_x``, ``face_y``; ``side`` is |face_x|,
which draws both halves at once) and measure positions in half widths and heights of the head.
"""

import torch
from torch import Tensor

from airlib.tinyworld.shapes import Bulge, Canvas, both, either, ellipse, rgb, strip
from airlib.tinyworld.sitter import Sitter, on

WHITE, NEAR_BLACK = rgb(0.95, 0.95, 0.95), rgb(0.08, 0.08, 0.08)


def face_patches(canvas: Canvas, s: Sitter) -> None:
    """The fox's white cheeks, the monkey's bare face, sunken sockets, the dog's eye patch."""
    a, w, h = s.anatomy, s.width, s.height
    eye_x, eye_y = a.eye_x * w, a.eye_y * h
    fox, monkey, zombie = s.is_a("fox"), s.is_a("monkey"), s.is_a("zombie")
    if fox.any():
        cheeks = ellipse(s.side, s.face_y, w * 0.55, h * 0.45, w * 0.62, h * 0.5)
        canvas.paint(both(cheeks, s.head), s.light_coat, fox * 0.95, outline=0.2)
    if monkey.any():
        bare = ellipse(s.side, s.face_y, w * 0.34, -h * 0.12, w * 0.42, h * 0.40)
        canvas.paint(both(bare, s.head), s.muzzle, monkey, outline=0.2)
    if zombie.any():
        sockets = ellipse(s.side, s.face_y, eye_x, eye_y, a.eye_radius * 1.75, a.eye_radius * 1.6)
        canvas.paint(sockets, s.coat * 0.55, zombie * 0.8, outline=0.0)
    if s.traits.eye_patch.any():
        radii = a.eye_radius * 2.1, a.eye_radius * 2.3
        patch = ellipse(s.face_x, s.face_y, -eye_x, eye_y - 0.02, *radii)
        canvas.paint(both(patch, s.head), s.coat * 0.6, s.traits.eye_patch, outline=0.0)


def stripes(canvas: Canvas, s: Sitter) -> None:
    """Dark stripes on forehead and cheeks, of striped cats."""
    if not s.traits.stripes.any():
        return
    forehead = (torch.sin(s.face_x / s.width * 16) > 0.55) & (s.face_y < -s.height * 0.35)
    cheeks = (torch.sin(s.face_y / s.height * 14) > 0.5) & (s.side > s.width * 0.72)
    mask = (forehead | cheeks).float() * canvas.coverage(s.head)
    canvas.tint(mask * s.traits.stripes * 0.45, s.coat * 0.45)


def blush(canvas: Canvas, s: Sitter) -> None:
    """Red cheeks of humans and monkeys, redder in babies."""
    blushing = s.is_a("human", "monkey")
    if not blushing.any():
        return
    dx, dy = (s.side - s.width * 0.62) / 0.12, (s.face_y - s.height * 0.42) / 0.11
    glow = torch.exp(-(dx**2 + dy**2)) * canvas.coverage(s.head) * (0.22 + 0.28 * s.baby)
    red = rgb(0.92, 0.42, 0.38) * s.coat.clamp_min(0.4)
    canvas.tint(glow * blushing * s.look.blush * 0.8, red)


def muzzle(canvas: Canvas, s: Sitter) -> None:
    """The muzzle, as visible as the species has one."""
    a = s.anatomy
    center_y, height = a.muzzle_y * s.height, a.muzzle_height * s.height
    shape = ellipse(s.face_x, s.face_y, 0.0, center_y, a.muzzle_width * s.width, height)
    bulge = Bulge(height * 1.2, center_y, s.yaw, strength=0.8)
    canvas.paint(shape, s.muzzle, a.muzzle_opacity, outline=0.25, bulge=bulge)


def wrinkles(canvas: Canvas, s: Sitter) -> None:
    """Forehead lines, crow's feet and folds beside the mouth, of the elderly."""
    if not s.elderly.any():
        return
    x, y, w, h = s.side, s.face_y, s.width, s.height
    on_brow = (y < -h * 0.32) & (y > -h * 0.68) & (x < w * 0.45)
    forehead = (torch.sin(y / h * 38) > 0.75) & on_brow
    outer_eye = (x - s.anatomy.eye_x * w - 0.13).abs() < 0.02
    crow_feet = outer_eye & ((y - s.anatomy.eye_y * h).abs() < 0.05)
    fold = (x - 0.15 - (y - h * 0.3) * 0.35).abs() < 0.012
    folds = fold & (y > h * 0.25) & (y < h * 0.55)
    mask = (forehead | crow_feet | folds).float() * canvas.coverage(s.head) * s.elderly * 0.35
    canvas.darken(mask * 0.7)
    canvas.add_ink(mask * 0.8)


def eyes(canvas: Canvas, s: Sitter) -> None:
    """White, iris, pupil, highlight, lid and brow of both eyes, then the glasses."""
    t, a, human_like = s.traits, s.anatomy, s.human_like
    x, y, radius = a.eye_x * s.width, a.eye_y * s.height, a.eye_radius
    openness = 0.62 + 0.28 * s.baby + 0.22 * t.surprise + 0.1 * (1 - human_like) - 0.06 * t.smile
    height = radius * (openness * s.look.eye_openness)
    outward = s.side - x
    eye = ellipse(outward, s.face_y, 0.0, y, radius, height)
    animal = torch.where(on(s.is_a("werewolf")), rgb(0.9, 0.7, 0.15), t.eye_color * 1.1 + 0.1)
    white = torch.where(on(human_like), rgb(0.96, 0.95, 0.94), animal)
    canvas.paint(eye, white.clamp(0, 1))

    looking = s.face_x - torch.sign(s.face_x) * x - t.gaze * radius * 0.4 * human_like
    iris = torch.minimum(height * 0.95, radius * 0.66)
    shape = ellipse(looking, s.face_y, 0.0, y, iris, iris)
    canvas.paint(both(shape, eye), t.eye_color, human_like, outline=0.0)
    pupil = iris * 0.58 * (1 + 0.45 * (1 - human_like))
    shape = ellipse(looking, s.face_y, 0.0, y, pupil * (1 - 0.5 * a.pupil_slit), pupil)
    canvas.paint(both(shape, eye), rgb(0.04, 0.04, 0.04), outline=0.0)
    glint = ellipse(looking, s.face_y, -radius * 0.22, y - height * 0.3, radius * 0.2, radius * 0.2)
    canvas.paint(glint, rgb(0.98, 0.98, 0.98), s.look.eye_glint, outline=0.0)

    lid = (eye.abs() - 0.014).clamp_min(0) + (s.face_y - y + height * 0.15).clamp_min(0) * 2
    canvas.paint(lid - 0.004, s.coat * 0.35, human_like * 0.8 * s.look.eyelid, outline=0.0)
    _brows(canvas, s, outward, y - height, radius)
    if t.glasses.any():
        rim = strip(ellipse(outward, s.face_y, 0.0, y, radius * 1.75, radius * 1.6), 0.017)
        bridge = both(strip(s.face_y - y, 0.013), s.side - (x - radius * 1.6))
        canvas.paint(either(rim, bridge), rgb(0.10, 0.10, 0.10), t.glasses, outline=0.0)


def _brows(canvas: Canvas, s: Sitter, outward: Tensor, eye_top: Tensor, radius: Tensor) -> None:
    t, u = s.traits, outward / radius
    slant = 0.035 * t.sadness - 0.03 * s.is_a("werewolf")
    center = eye_top - 0.075 + 0.03 * u * u + u * slant - 0.04 * t.surprise
    shape = both(strip(s.face_y - center, 0.022), strip(outward, radius * 1.15))
    canvas.paint(shape, s.hair * 0.75, s.anatomy.brows, outline=0.0)


def nose(canvas: Canvas, s: Sitter) -> None:
    """The nose of an animal, or the shadow and tip of a human one, and a glint."""
    a, y = s.anatomy, s.anatomy.nose_y * s.height
    has_snout = (a.nose_opacity > 0.3).float()
    widening = 1 + 0.35 * ((s.face_y - y) / 0.1).clamp(-1, 1)
    shape = ellipse(
        s.face_x * widening, s.face_y, 0.0, y, a.nose_width + 0.01, a.nose_height * 0.8 + 0.01
    )
    color = torch.where(on(s.is_a("cat", "rabbit")), rgb(0.78, 0.45, 0.45), NEAR_BLACK)
    canvas.paint(shape, color, has_snout * (1 - 0.5 * s.is_a("zombie")), outline=0.4)
    if s.human_like.any():
        dx = (s.face_x + s.traits.light_x.sign() * 0.03) / 0.028
        dy = (s.face_y - y * 0.55) / 0.14
        shadow = torch.exp(-(dx**2 + dy**2)) * 0.16 * s.human_like
        canvas.darken(shadow * s.look.nose_shadow)
        curve = s.face_y - y - a.nose_height * 0.45 + 3.0 * s.face_x * s.face_x
        tip = both(strip(curve, 0.012), s.side - a.nose_width * 0.62)
        canvas.paint(tip, s.coat * 0.62, s.is_a("human") * (1 - 0.3 * s.baby), outline=0.0)
    glint = ellipse(s.face_x, s.face_y, 0.0, y - 0.03, 0.03, 0.03)
    canvas.paint(glint, WHITE, s.look.nose_glint * has_snout, outline=0.0)


def mouth(canvas: Canvas, s: Sitter) -> None:
    """Lips, the open mouth inside them, and the teeth of a smile."""
    t, human = s.traits, s.is_a("human")
    width = s.anatomy.mouth_width * s.width
    below, along = s.face_y - s.anatomy.mouth_y * s.height, s.face_x / width
    open_for_smile = 0.05 * t.smile * t.toothy
    opening = 0.115 * t.surprise + open_for_smile + 0.03 * s.is_a("werewolf", "zombie")
    curve = -0.55 * width * (along * along - 0.5) * (t.smile - 0.8 * t.sadness + 0.12)
    half_height = 0.012 + opening * (1 - along * along).clamp_min(0)
    shape = both(strip(below - curve, half_height), s.side - width)
    lips = torch.where(on(t.female), rgb(0.75, 0.22, 0.25), s.coat * 0.60)
    canvas.paint(shape - 0.012, torch.where(on(human), lips, s.coat * 0.25), outline=0.0)
    inside = shape + 0.012
    canvas.paint(inside, rgb(0.32, 0.06, 0.07), (opening > 0.02).float(), outline=0.0)
    teeth = both(inside, below - curve + opening * 0.25)
    canvas.paint(teeth, WHITE, t.smile * t.toothy * s.human_like * (1 - s.baby), outline=0.0)
    if s.look.ink:
        canvas.draw(shape, 0.8)


def snout_details(canvas: Canvas, s: Sitter) -> None:
    """Line under the nose, fangs, a smiling dog's tongue, whiskers."""
    a, t = s.anatomy, s.traits
    nose_y, mouth_y = a.nose_y * s.height, a.mouth_y * s.height
    below = s.face_y - mouth_y
    has_muzzle = (a.muzzle_opacity > 0.3).float()
    if has_muzzle.any():
        middle = s.face_y - (nose_y + mouth_y) / 2
        groove = both(strip(s.face_x, 0.009), strip(middle, (mouth_y - nose_y) * 0.42))
        canvas.paint(groove, s.coat * 0.3, has_muzzle * 0.8, outline=0.0)
    fanged = (a.fangs > 0.25).float() * a.fangs.sqrt()
    if fanged.any():
        taper = 0.045 * (1 - below / 0.14).clamp(0, 1)
        sides = strip(s.side - a.mouth_width * s.width * 0.55, taper)
        canvas.paint(both(sides, -below - 0.01, below - 0.14), rgb(0.96, 0.96, 0.96), fanged, 0.4)
    dog = s.is_a("dog")
    if dog.any():
        tongue = ellipse(s.face_x, s.face_y, 0.0, mouth_y + 0.10, 0.075, 0.10)
        canvas.paint(tongue, rgb(0.90, 0.45, 0.50), dog * t.smile, outline=0.6)
    if a.whiskers.any():
        rise = [(0.06, 0.22), (0.02, -0.05), (-0.03, -0.28)]
        hairs = either(*[(below + y + (s.side - 0.1) * slope).abs() for y, slope in rise])
        shape = both(hairs - 0.008, 0.12 - s.side, s.side - 0.46)
        pale_coat = (s.coat.mean(1, keepdim=True) > 0.6).float()
        canvas.paint(shape, 0.93 * (1 - 0.6 * pale_coat), a.whiskers * 0.75, outline=0.0)


def stitches(canvas: Canvas, s: Sitter) -> None:
    """A stitched scar across the forehead of a zombie."""
    zombie = s.is_a("zombie")
    if not zombie.any():
        return
    across, x = s.face_y + s.height * 0.42 + 0.2 * s.face_x, s.face_x - 0.12
    seam = both(strip(across, 0.010), strip(x, 0.16))
    every_tenth = strip(torch.remainder(s.face_x, 0.1) - 0.05, 0.012)
    threads = both(every_tenth, strip(across, 0.045), strip(x, 0.14))
    canvas.paint(either(seam, threads), rgb(0.25, 0.05, 0.06), zombie, outline=0.0)
