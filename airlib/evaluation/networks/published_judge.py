"""The judge of the published setting: Inception for sets of images, VGG-16 for pairs of them.

    judge = PublishedJudge.fetched()     # if `missing()` is empty, which else says what to fetch
    judge.features(images)               # [B, 2048]; their Frechet distance is FID
    judge.maps(images)                   # with `judge.layer_weights` their distance is LPIPS

AIR measures FID and intra-LPIPS with these two. Precision and recall, which HyperDomainNet reports,
are taken in Inception's features too, as most ports do, not in those of the VGG of their authors.
"""

from typing import Self

from torch import Tensor

from airlib.assets.store import asset_file
from airlib.errors import AirlibError
from airlib.evaluation.features import Judge
from airlib.evaluation.networks.inception import ASSET, Inception
from airlib.evaluation.networks.lpips import TRUNKS, Lpips
from airlib.evaluation.perceptual import at_most

LARGEST = 256  # pixels a side that LPIPS sees: AIR's script scales its images down to them
ASSETS = (ASSET, TRUNKS["vgg"].asset)


class PublishedJudge(Judge):
    """A judge made of two frozen networks: Inception gives the features, LPIPS's trunk the maps.

    note: what is added to the names of both networks in protocols.
    """

    map_size = LARGEST

    def __init__(self, inception: Inception, lpips: Lpips, note: str = "") -> None:
        super().__init__()
        self.inception, self.lpips = inception, lpips
        self.config = {"network": f"inception{note}", "maps": f"lpips-{lpips.net}{LARGEST}{note}"}
        self.title = f"{inception.resize}'s Inception{note}"
        self.layer_weights = lpips.layer_weights

    @classmethod
    def fetched(cls) -> Self:
        """The judge from the verified asset files; AirlibError says which one is missing."""
        return cls(Inception(), Lpips("vgg"))

    @classmethod
    def untrained(cls) -> Self:
        """A judge with random weights, for runs that only check sizes."""
        return cls(Inception.untrained(), Lpips.untrained("vgg"), " (random weights)")

    def features(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1] -> Inception's features [B, 2048]."""
        return self.inception(images)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W] in [-1, 1], on any device -> five maps [B, C_l, H_l, W_l]."""
        return self.lpips(at_most(images, LARGEST).to(self.lpips.shift.device))


def missing() -> str:
    """How to get the asset files of `PublishedJudge`, in one line; "" if all are there."""
    reasons = []
    for name in ASSETS:
        try:
            asset_file(name)
        except AirlibError as error:
            reasons.append(str(error))
    return "; ".join(reasons)
