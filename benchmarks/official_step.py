"""A generator pass, a NADA step and a run of AIR beside a plain transcription of the official loop.

    OMP_NUM_THREADS=1 python benchmarks/official_step.py            # the tiny world's sizes
    OMP_NUM_THREADS=1 python benchmarks/official_step.py 512        # 64 px with 512 channels

`official_layers` writes StyleGAN2's layers as the official code runs them without custom kernels:
a weight for every sample, [B, O, I, k, k], in one grouped convolution, and filters over images that
zeros were put between. The loop is `OfficialLoop` of air_step.py: layers are selected before every
step (`nada step` leaves that out, `nada step, selecting` does not), images and texts are encoded
where the official loop encodes them. Ratios say how much longer the official side takes: median
over interleaved repetitions, processor time. `difference` is the largest between the two sides'
images, of values up to about 1.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import torch
import torch.nn.functional as F
from air_step import CONFIG, OfficialLoop, networks
from air_step import ours as air_here
from torch import Tensor

from airlib.adaptation import adapt
from airlib.clip_space.encoder import ClipEncoder, ClipSpace
from airlib.generators import stylegan2
from airlib.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from airlib.generators.stylegan2_layers import LOW_PASS, ModulatedConv, SynthesisLayer
from airlib.methods.nada import NADA
from airlib.parameterizations.stylegan2 import synthesis
from airlib.worlds import open_world

CLASSES, REPETITIONS, STEPS = ("human", "dog"), 3, 5


# -- the official layers -------------------------------------------------------------------------
def filtered(x: Tensor, up: int, pad: tuple[int, int]) -> Tensor:
    """x [B, C, H, W] with zeros between its pixels, padded, under the filter [4, 4]."""
    batch, channels, height, width = x.shape
    x = x.reshape(-1, 1, height, 1, width, 1)
    x = F.pad(x, (0, up - 1, 0, 0, 0, up - 1)).reshape(-1, 1, height * up, width * up)
    x = F.conv2d(F.pad(x, (*pad, *pad)), LOW_PASS.flip(0, 1)[None, None])
    return x.reshape(batch, channels, *x.shape[2:])


def convolve(
    layer: ModulatedConv, x: Tensor, styles: Tensor, demodulate: bool, up: bool = False
) -> Tensor:
    """One grouped convolution of x [B, I, H, W] with a weight for every sample."""
    batch, inputs, height, width = x.shape
    weight = layer.weight[None] * styles[:, None, :, None, None]
    if demodulate:
        weight = weight * (weight.square().sum([2, 3, 4], keepdim=True) + 1e-8).rsqrt()
    outputs, kernel = weight.shape[1], weight.shape[-1]
    x = x.reshape(1, batch * inputs, height, width)
    if up:
        weight = weight.transpose(1, 2).reshape(batch * inputs, outputs, kernel, kernel)
        x = F.conv_transpose2d(x, weight, stride=2, groups=batch)
        return filtered(x.reshape(batch, outputs, *x.shape[2:]), 1, (1, 1))
    weight = weight.reshape(batch * outputs, inputs, kernel, kernel)
    x = F.conv2d(x, weight, padding=kernel // 2, groups=batch)
    return x.reshape(batch, outputs, height, width)


def layer_forward(self: SynthesisLayer, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
    x = convolve(self, x, self.affine(w), demodulate=True, up=self.up)
    x = x if noise is None else x + noise * self.noise_strength
    return F.leaky_relu(x + self.bias[:, None, None], 0.2) * 2**0.5


def to_rgb_forward(self: stylegan2.ToRGB, x: Tensor, w: Tensor) -> Tensor:
    return (
        convolve(self, x, self.affine(w) * self.gain, demodulate=False) + self.bias[:, None, None]
    )


@contextmanager
def official_layers() -> Iterator[None]:
    """StyleGAN2 as the official code runs it without custom kernels."""
    with (
        patch.object(SynthesisLayer, "forward", layer_forward),
        patch.object(stylegan2.ToRGB, "forward", to_rgb_forward),
        patch.object(stylegan2, "upsample_image", lambda image: filtered(image, 2, (2, 1))),
    ):
        yield


# -- what is measured ----------------------------------------------------------------------------
class PlainLoop(OfficialLoop):
    """Without layer selection, as with `--auto_layer_iters 0`."""

    def select_layers(self, index: int) -> None:
        for layer in self.layers:
            layer.requires_grad_(True)


def sized(channels: int | None) -> tuple[StyleGAN2, ClipEncoder]:
    """The tiny world's generator, or a random one of 64 px, and the tiny world's CLIP."""
    world = open_world("tiny")
    encoder = world.space.encoders[0]
    if channels is None:
        return world.generator, encoder
    torch.manual_seed(0)
    config = StyleGAN2Config(64, channel_base=channels * 64, channel_max=channels)
    generator = StyleGAN2(config).requires_grad_(False).eval()
    for layer in generator.synthesis.layers:
        layer.noise_strength.fill_(0.1)
    return generator, encoder


def seconds(call: Callable[[], object]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


def ratio_of(here: Callable[[], object], official: Callable[[], object]) -> dict[str, float]:
    """Median seconds on both sides, and the ratio; the first repetition does not count."""
    pairs = []
    for _ in range(REPETITIONS + 1):
        mine = seconds(here)
        with official_layers():
            pairs.append((mine, seconds(official)))
    mine, theirs = map(statistics.median, zip(*pairs[1:], strict=True))
    return {
        "airlib": round(mine, 4),
        "official": round(theirs, 4),
        "ratio": round(theirs / mine, 2),
    }


def passes(generator: StyleGAN2, batch: int, backward: bool) -> Callable[[], Tensor]:
    latents = generator.sample_latents(batch, torch.Generator().manual_seed(0))
    noise = generator.sample_noise(batch, torch.Generator().manual_seed(1))

    def call() -> Tensor:
        with torch.set_grad_enabled(backward):
            images = generator(latents, noise)
        if backward:
            images.square().mean().backward()
        return images.detach()

    return call


def nada_here(source: StyleGAN2, encoder: ClipEncoder) -> None:
    space = ClipSpace([(encoder, 1.0)])
    adapt(source, space, NADA(space, *CLASSES), synthesis(), replace(CONFIG, steps=STEPS))


def nada_official(loop: type[OfficialLoop], source: StyleGAN2, encoder: ClipEncoder) -> None:
    official = loop(source, encoder)
    for index in range(STEPS):
        official.step(index)


def main(channels: int | None) -> None:
    torch.set_num_threads(1)
    source, encoder = sized(channels)
    moving = source.copy_frozen().requires_grad_(True)
    drawn = passes(source, 2, backward=False)
    images = drawn()
    with official_layers():
        difference = (drawn() - images).abs().max() / images.abs().max()
    print(json.dumps({"channels": source.config.channel_max, "difference": float(difference)}))
    rows = {
        "generator, 2 images": [passes(source, 2, False)] * 2,
        "generator, 50 images": [passes(source, 50, False)] * 2,
        "generator and gradient, 2 images": [passes(moving, 2, True)] * 2,
        f"{STEPS} nada steps": [
            lambda: nada_here(source, encoder),
            lambda: nada_official(PlainLoop, source, encoder),
        ],
        f"{STEPS} nada steps, selecting": [
            lambda: nada_here(source, encoder),
            lambda: nada_official(OfficialLoop, source, encoder),
        ],
        "air, 40 steps": [
            lambda: air_here(*networks()), lambda: OfficialLoop(*networks()).run()
        ],
    }  # fmt: skip
    for name, (here, official) in rows.items():
        print(json.dumps({"what": name} | ratio_of(here, official)), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else None)
