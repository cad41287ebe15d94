"""Pictures to take away: a PNG of one or of several beside each other, and a GIF that moves.

    save_png(frames[:1], "middle.png")              one picture, its own pixels
    save_png(frames, "strip.png", side=128)         n pictures in a row
    save_gif(frames, "walk.gif", seconds=0.1)       there and back again, for ever

Images are [n, 3, H, H] in [-1, 1]; values outside are clipped. A GIF has 256 colours per frame.
"""

from io import BytesIO
from pathlib import Path

from PIL import Image
from torch import Tensor

from airlib.errors import AirlibError
from airlib.files import write_atomically
from airlib.showing.figures import strip_png


def save_png(images: Tensor, path: str | Path, side: int | None = None) -> Path:
    """Write images [n, 3, H, H] in [-1, 1] beside each other as one PNG; returns the path.

    side: pixels that each is high; default: its own. Raises AirlibError for other shapes, no
    images, NaN, and if the file cannot be written.
    """
    content = strip_png(_checked(images), side or images.shape[2])
    return write_atomically(path, lambda temporary: temporary.write_bytes(content))


def save_gif(
    images: Tensor, path: str | Path, seconds: float = 0.1, side: int | None = None,
    and_back: bool = True,
) -> Path:  # fmt: skip
    """Write images [n, 3, H, H] in [-1, 1] as an endless animation; returns the path.

    seconds: how long each image is seen, rounded to hundredths.
    side: pixels that an image is high; default: its own.
    and_back: after the last image, the ones between in reverse, so that nothing jumps.
    Raises AirlibError for other shapes, no images, NaN, and a time that a GIF cannot hold.
    """
    hundredths = round(100 * seconds)
    if hundredths < 2 or hundredths > 0xFFFF:  # browsers slow down what is faster
        raise AirlibError(f"a frame of {seconds} s: a GIF shows one for 0.02 s to 655 s")
    side = side or _checked(images).shape[2]
    frames: list[Image.Image] = [
        Image.open(BytesIO(strip_png(image[None], side))) for image in images
    ]
    frames += frames[-2:0:-1] if and_back else []
    frames = [frame.quantize(256, dither=Image.Dither.NONE) for frame in frames]
    options = {"save_all": True, "append_images": frames[1:], "loop": 0}
    options |= {"duration": 10 * hundredths, "optimize": False, "disposal": 1}
    return write_atomically(path, lambda temporary: frames[0].save(temporary, "GIF", **options))


def _checked(images: Tensor) -> Tensor:
    shape = list(images.shape)
    if len(shape) != 4 or not shape[0] or shape[1] != 3 or shape[2] != shape[3]:
        raise AirlibError(f"expected images [n, 3, H, H], got {shape}")
    if not images.isfinite().all():
        raise AirlibError("the images hold NaN or infinite pixels")
    return images
