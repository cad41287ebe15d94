"""Random networks so small that a test can train them in a second, without any shipped weights."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.models import UNet2DModel
from open_clip.model import CLIP

from airlib.adaptation import Adaptation
from airlib.clip_space.encoder import ClipEncoder, ClipSpace
from airlib.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from airlib.tinyworld import tiny_clip

SMALL = dict(resolution=16, z_dim=16, w_dim=16, channel_base=256, channel_max=16, mapping_layers=2)


def small_generator(seed: int = 0, **changes: int) -> StyleGAN2:
    """A frozen StyleGAN2 in which every tensor is random, noise strengths and biases included."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        generator = StyleGAN2(StyleGAN2Config(**(SMALL | changes)))
        for name, parameter in generator.named_parameters():
            if name.endswith(("noise_strength", "bias")):
                scale = 0.1 if "mapping" not in name else 10.0
                parameter.data += scale * torch.randn(parameter.shape)
        generator.mapping.w_avg.copy_(0.3 * torch.randn(generator.w_dim))
    return generator.requires_grad_(False).eval()


def small_encoder(seed: int = 0) -> ClipEncoder:
    """A vision transformer of 16 px and a text transformer on the tiny world's vocabulary."""
    tokenizer = tiny_clip.load_tokenizer()
    vision = {"image_size": 16, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16}
    text = {"context_length": tiny_clip.CONTEXT_LENGTH, "vocab_size": tokenizer.vocab_size}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CLIP(32, vision, text | {"width": 32, "heads": 2, "layers": 1})
    return ClipEncoder(model, tokenizer, "small")


def small_space(seed: int = 0) -> ClipSpace:
    return ClipSpace([(small_encoder(seed), 1.0)])


def small_unet(seed: int = 0, size: int = 16, outputs: int = 3) -> UNet2DModel:
    """A frozen UNet of two levels with one attention, in the middle."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DModel(
            size, out_channels=outputs, block_out_channels=(8, 16), layers_per_block=1,
            down_block_types=["DownBlock2D"] * 2, up_block_types=["UpBlock2D"] * 2,
            norm_num_groups=4, attn_norm_num_groups=4, attention_head_dim=8, norm_eps=1e-5,
            resnet_time_scale_shift="scale_shift",
        )  # fmt: skip
    return unet.requires_grad_(False).eval()


class Stopped(Exception):
    """Raised in the middle of a run."""


def assert_continues(run: Callable[..., Adaptation], directory: Path, last: int) -> None:
    """run(**options of `adapt`), stopped before step `last` and called again, ends with the bits of
    a run that was not stopped.
    """

    def stop(index: int, _adapted: torch.nn.Module) -> None:
        if index == last:
            raise Stopped

    whole = run()
    with pytest.raises(Stopped):
        run(directory=directory, on_step=stop)
    again = run(directory=directory)
    assert again.log == whole.log and again.config == whole.config
    assert all(torch.equal(value, again.tensors[name]) for name, value in whole.tensors.items())
