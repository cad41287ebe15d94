"""The paper world: published weights from `data_manifests/`, reference images from a folder.

No true target is known for a photograph; a pair is scored against reference images of its target
domain. With `networks.weights = "random"` (what a dry run sets) every network has its real size and
random weights, and references are noise: nothing is downloaded and nothing is claimed, but shapes,
numbers and memory are those of a real run.

FID and LPIPS need two networks more. Where they were not fetched, a warning says so when a set is
first scored, and what is left is CLIP distance.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor

from airlib.assets.store import asset_directory, asset_file
from airlib.checkpoints.guided_diffusion import P2_CONFIG, read_guided_diffusion
from airlib.checkpoints.nvlabs import read_nvlabs
from airlib.clip_space.encoder import ClipEncoder, ClipSpace
from airlib.errors import AirlibError
from airlib.evaluation.features import Judge, Reference
from airlib.evaluation.networks import published_judge
from airlib.evaluation.networks.published_judge import PublishedJudge
from airlib.generators.base import Generator
from airlib.generators.diffusion import DiffusionGenerator
from airlib.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from airlib.images.folders import open_image_set
from airlib.profiles import Profile
from airlib.seeding import rng
from airlib.worlds.base import World

if TYPE_CHECKING:
    from diffusers.models import UNet2DModel

FEWEST_REFERENCES = 10
CLIP_ASSETS = {"ViT-B-32": "clip-vit-b32", "ViT-B-16": "clip-vit-b16"}


@dataclass(frozen=True, eq=False)
class PaperWorld(World):
    """StyleGAN2-ADA or an ADM UNet, and OpenAI's CLIP, on the GPU where there is one."""

    knows_truth: ClassVar[bool] = False
    reference_rows: ClassVar[tuple[str, ...]] = ("source",)

    @classmethod
    def open(cls, profile: Profile, source: str) -> Self:
        """The generator called `source` in the profile, and its CLIP models."""
        space, generator = cls.clip(profile), _generator(source, profile).to(_device())
        return cls(profile, source, generator, space, *cls.load_judges(profile))

    @classmethod
    def clip(cls, profile: Profile) -> ClipSpace:
        """The CLIP models that the profile names, on the GPU where there is one."""
        encoders = [_encoder(name, profile).to(_device()) for name in profile.world.clip]
        return ClipSpace(list(zip(encoders, profile.world.clip_weights, strict=True)))

    @classmethod
    def load_judges(cls, profile: Profile) -> tuple[tuple[Judge, ...], str]:
        """Inception and LPIPS as one judge, and ""; or none, and which of them to fetch."""
        if profile.networks.weights == "random":
            return (PublishedJudge.untrained().to(_device()),), ""
        if missing := published_judge.missing():
            return (), f"FID and LPIPS need networks that are not here: {missing}"
        return (PublishedJudge.fetched().to(_device()),), ""

    def reference_of(
        self, pair: str, images: Iterable[Tensor], cache: Path | None = None
    ) -> Reference:
        """Other images of the target domain as the metrics see it; warns if there is no judge."""
        if not self.judges:
            warnings.warn(self.without_judges, stacklevel=2)
        return super().reference_of(pair, images, cache)

    def reference_images(self, pair: str) -> Iterable[Tensor]:
        """Images in the folder of the pair's target, cut to squares of the generator's size."""
        n = self.profile.evaluation.references
        return self._images_in(self.pair(pair).target, n, FEWEST_REFERENCES, "reference images")

    def pictures(self, n: int) -> Tensor:
        """n images [n, 3, H, H] of the source's folder, cut to squares of the generator's size."""
        folder = self.profile.sources[self.source].pictures
        return torch.cat(list(self._images_in(folder, n, n, "pictures")))

    def _images_in(self, name: str, n: int, fewest: int, what: str) -> Iterable[Tensor]:
        """Up to n images of a folder in the asset directory, or noise in a dry run."""
        size = self.generator.resolution
        if self.profile.networks.weights == "random":
            stream = rng(0, what)
            return (2 * torch.rand(1, 3, size, size, generator=stream) - 1 for _ in range(n))
        folder = asset_directory() / name
        if not folder.is_dir():
            raise AirlibError(
                f"there are no {what} of {name!r}; put up to {n} of them into {folder} "
                "(data_manifests/reference_sets.yaml says which are published)"
            )
        return open_image_set(folder, size, n, fewest)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _generator(source: str, profile: Profile) -> Generator:
    numbers = profile.sources[source]
    random = profile.networks.weights == "random"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if numbers.generator == "diffusion":
            unet = _unet(None if random else numbers.asset)
            generator: Generator = DiffusionGenerator(unet, **profile.diffusion.as_dict())
        else:
            generator = _stylegan2(None if random else numbers.asset, numbers.resolution)
    if generator.resolution != numbers.resolution:
        raise AirlibError(
            f"{numbers.asset} draws {generator.resolution} pixels where the profile says "
            f"{numbers.resolution}; fetch it again, or correct sources.{source}.resolution"
        )
    return generator.requires_grad_(False).eval()


def _stylegan2(asset: str | None, resolution: int) -> StyleGAN2:
    """That of `asset`, or a random one."""
    if asset is None:
        return StyleGAN2(StyleGAN2Config(resolution=resolution))
    imported = read_nvlabs(asset_file(asset))
    generator = StyleGAN2(StyleGAN2Config(**imported.config))
    generator.load_state_dict(imported.tensors)
    return generator


def _unet(asset: str | None) -> "UNet2DModel":
    """That of `asset`, or a random one of the size of P2's."""
    from diffusers.models import UNet2DModel

    if asset is None:
        return UNet2DModel(**P2_CONFIG)
    imported = read_guided_diffusion(asset_file(asset))
    unet = UNet2DModel(**imported.config)
    unet.load_state_dict(imported.tensors)
    return unet


def _encoder(name: str, profile: Profile) -> ClipEncoder:
    if name not in CLIP_ASSETS:
        raise AirlibError(f"unknown CLIP {name!r}; choose from {', '.join(CLIP_ASSETS)}")
    antialias = profile.world.clip_antialias
    if profile.networks.weights == "random":
        return ClipEncoder.untrained(name, antialias)
    return ClipEncoder.openai(name, asset_file(CLIP_ASSETS[name]), antialias)
