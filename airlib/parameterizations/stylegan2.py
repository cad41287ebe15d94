"""What may move of a StyleGAN2: which tensors of the adapted copy a method is allowed to train.

    synthesis()              StyleGAN-NADA without selection: constant input, all 3x3 convolutions
    adaptive_layers(k, ...)  StyleGAN-NADA: at every step the k layers the target text pulls most
    domain_vector()          HyperDomainNet: one factor per input channel of every 3x3 convolution
    full(), mapping(), convolutions(), affine()    what HyperDomainNet compares it with
    singular_values()        FSGAN: the singular values of every 3x3 convolution
    latent_direction()       TargetCLIP: one offset that is added to every latent
    domain_embedding()       only the bias through which a domain enters the mapping network

The mapping network is frozen in all but `full`, `mapping` and `domain_embedding`, which are `whole`
and want a generator `with_mapping`. The ToRGB layers are frozen in all but `full` (the first can be
chosen by the adaptive selection, as in the official code). Convolutions bring their affine map,
bias and noise strength along. `domain_embedding` is no method of the papers: it can only move
between domains that the world generator knows, and shows what a perfect prior would give
(`prior-restricted`).
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import torch
from torch import Generator as Rng
from torch import Tensor, nn

from airlib.clip_space.encoder import ClipSpace
from airlib.errors import AirlibError
from airlib.generators.stylegan2 import StyleGAN2
from airlib.generators.stylegan2_layers import DOMAIN_PARAMETERS, ModulationOrder
from airlib.parameterizations.base import Parameterization
from airlib.parameterizations.singular_values import singular_values

LayerMap = Literal["official", "corrected"]
SELECTION_BATCH = 8


def named(adapted: nn.Module, wanted: Iterable[nn.Module | Tensor]) -> dict[str, nn.Parameter]:
    """The parameters of `adapted` that are in `wanted`, or in a module of it, by their names."""
    ids: set[int] = set()
    for item in wanted:
        ids |= {id(item)} if isinstance(item, Tensor) else {id(p) for p in item.parameters()}
    return {name: p for name, p in adapted.named_parameters() if id(p) in ids}


def synthesis() -> Parameterization:
    """The constant input and every 3x3 convolution of a StyleGAN2, with affine map, bias and noise
    strength (26.7 million numbers at 1024 pixels).
    """

    def select(adapted: StyleGAN2) -> dict[str, nn.Parameter]:
        return named(adapted, [adapted.synthesis.block(4).const, *adapted.synthesis.layers])

    return Parameterization("synthesis", select, kind=StyleGAN2)


def convolutions() -> Parameterization:
    """The weights of every 3x3 convolution, without affine map and bias (23.6 million
    numbers at 1024 pixels).
    """

    def select(adapted: StyleGAN2) -> dict[str, nn.Parameter]:
        return named(adapted, [layer.weight for layer in adapted.synthesis.layers])

    return Parameterization("convolutions", select, kind=StyleGAN2)


def affine() -> Parameterization:
    """The affine maps from w to the styles of every 3x3 convolution (3.1 million
    numbers at 1024 pixels).
    """

    def select(adapted: StyleGAN2) -> dict[str, nn.Parameter]:
        return named(adapted, [layer.affine for layer in adapted.synthesis.layers])

    return Parameterization("affine", select, kind=StyleGAN2)


def domain_vector(order: ModulationOrder = "pre") -> Parameterization:
    """HyperDomainNet's domain vector: a factor per input channel of every 3x3 convolution, all 1 at
    the start (6,048 numbers at 1024 pixels).

    "pre": applied before demodulation, as in the paper (section 3.1): one factor for all channels
    of a layer changes nothing. "post": after it, as in the official code (`cin_mult`): there such a
    factor multiplies the activations, layer after layer. Raises AirlibError for another order.
    """
    if order not in DOMAIN_PARAMETERS:
        raise AirlibError(f'unknown order {order!r} of domain modulation; use "pre" or "post"')

    def select(adapted: StyleGAN2) -> dict[str, nn.Parameter]:
        return named(adapted, [layer.add_domain(order) for layer in adapted.synthesis.layers])

    name = "domain_vector" if order == "pre" else "domain_vector_post"
    return Parameterization(name, select, kind=StyleGAN2)


def full() -> Parameterization:
    """Everything, mapping network and ToRGB included, of a generator `with_mapping` (30.4 million
    numbers of a StyleGAN2 at 1024 pixels, NVIDIA's noise strengths among them).
    """
    return Parameterization("full", _everything, whole=True)


def _everything(adapted: nn.Module) -> dict[str, nn.Parameter]:
    return dict(adapted.named_parameters())


def mapping() -> Parameterization:
    """The mapping network of a generator `with_mapping` (2.1 million numbers at 1024 pixels)."""

    def select(adapted: StyleGAN2) -> dict[str, nn.Parameter]:
        return named(adapted, [adapted.mapping])

    return Parameterization("mapping", select, whole=True, kind=StyleGAN2)


def latent_direction() -> Parameterization:
    """TargetCLIP's direction: an offset in w+, zero at the start (9,216 numbers at 1024 pixels)."""

    def select(adapted: StyleGAN2) -> dict[str, nn.Parameter]:
        return named(adapted, [adapted.add_direction()])

    return Parameterization("latent_direction", select, kind=StyleGAN2)


def domain_embedding() -> Parameterization:
    """The first bias of the mapping network of a generator `with_mapping`: where
    `StyleGAN2.restrict` put the condition, so the generator can only move between known domains.
    """

    def select(adapted: StyleGAN2) -> dict[str, nn.Parameter]:
        return named(adapted, [adapted.mapping.layer(0).bias])

    return Parameterization("domain_embedding", select, whole=True, kind=StyleGAN2)


PARAMETERIZATIONS: dict[str, Callable[[], Parameterization]] = {
    "full": full,
    "synthesis": synthesis,
    "convolutions": convolutions,
    "affine": affine,
    "mapping": mapping,
    "domain_vector": domain_vector,
    "domain_vector_post": partial(domain_vector, "post"),
    "singular_values": singular_values,
    "latent_direction": latent_direction,
    "domain_embedding": domain_embedding,
}
"""Name -> the function that makes it, for what may move of a StyleGAN2; `full` fits any."""


def trainable_numbers(generator: StyleGAN2) -> dict[str, int]:
    """{name: how many numbers it trains in `generator`} for every parameterization of a StyleGAN2:
    the budget table of HyperDomainNet. The generator stays as it is.
    """
    counts = {}
    for name, make in PARAMETERIZATIONS.items():
        moving = make()
        copy = generator.with_mapping() if moving.whole else generator.copy_frozen()
        counts[name] = sum(p.numel() for p in moving.attach(copy.to("meta")).values())
    return counts


def layers_of(
    generator: StyleGAN2, latent_indices: Iterable[int], layer_map: LayerMap
) -> list[nn.Module]:
    """The layers of `generator` that stand for entries 0 ... num_ws - 1 of the w+ latent.

    "official": entry i is item i of [4x4 conv, 4x4 torgb, remaining convs], as in StyleGAN-NADA's
    code, where the scored entry is off by one from the layer it drives for i >= 2. "corrected":
    entry i stands for the convolution that it drives (the last entry drives only the last torgb and
    stands for none). Raises AirlibError for another layer_map.
    """
    if layer_map == "official":
        return [generator.layer(i) for i in latent_indices]
    if layer_map != "corrected":
        raise AirlibError(f"unknown layer_map {layer_map!r}; choose official or corrected")
    convolutions = generator.synthesis.layers
    return [convolutions[i] for i in latent_indices if i < len(convolutions)]


def latent_scores(generator: StyleGAN2, space: ClipSpace, target_class: str, rng: Rng) -> Tensor:
    """How strongly the text `target_class` pulls each entry of w+, averaged over 8 images [num_ws].

    StyleGAN-NADA takes one SGD step on w against 1 - 100 cos(image, text) / 100 and scores entry i
    by the mean movement; for one step that is the mean absolute gradient, computed here directly.
    Raises AirlibError for a generator whose latents are not in w+.
    """
    device = space.encoders[0].device
    latents = generator.sample_latents(SELECTION_BATCH, rng).to(device).requires_grad_(True)
    if latents.ndim != 3:
        raise AirlibError(
            "adaptive selection scores the entries of w+, which this generator does not have; "
            f"train all layers (k >= {generator.num_layers}) or use another parameterization"
        )
    flags = {p: p.requires_grad for p in generator.parameters()}
    generator.requires_grad_(False)  # scoring needs no weight gradients
    images = space.embed_images(generator(latents, generator.sample_noise(SELECTION_BATCH, rng)))
    texts = space.embed_text([target_class])
    loss = space.weighted(lambda image, text: (1 - image @ text[0]).mean(), images, texts)
    (gradient,) = torch.autograd.grad(loss, latents)
    for parameter, flag in flags.items():
        parameter.requires_grad_(flag)
    return gradient.abs().mean(dim=(0, 2))


class AdaptiveLayers(Parameterization):
    """StyleGAN-NADA's adaptive selection: `before_step` chooses k of all selectable layers.

    k, layer_map, space, target_class: as in `adaptive_layers`, which makes it.
    """

    def __init__(
        self, k: int, layer_map: LayerMap, space: ClipSpace | None, target_class: str | None
    ) -> None:
        if k < 1:
            raise AirlibError(f"k = {k} layers cannot be trained; choose k >= 1")
        self.k, self.layer_map, self.space, self.target_class = k, layer_map, space, target_class
        suffix = "" if layer_map == "official" else f"_{layer_map}"
        super().__init__(f"layers{k}{suffix}", self._selectable)

    def bind(self, space: ClipSpace, target_class: str) -> "AdaptiveLayers":
        """A selection of as many layers, scored by how strongly `target_class` pulls in `space`."""
        return AdaptiveLayers(self.k, self.layer_map, space, target_class)

    def before_step(self, adapted: Any, trainable: dict[str, nn.Parameter], rng: Rng) -> None:
        chosen = {id(p) for layer in self._chosen(adapted, rng) for p in layer.parameters()}
        for parameter in self._selectable(adapted).values():
            parameter.requires_grad_(id(parameter) in chosen)

    def _selectable(self, adapted: Any) -> dict[str, nn.Parameter]:
        return named(adapted, layers_of(adapted, range(adapted.num_layers), self.layer_map))

    def _chosen(self, adapted: Any, rng: Rng) -> list[nn.Module]:
        if self.k >= adapted.num_layers:
            return layers_of(adapted, range(adapted.num_layers), self.layer_map)
        if self.space is None or self.target_class is None:
            raise AirlibError(
                f"{self.name} chooses layers by a target text and knows none; "
                "train what its method bind(space, target_class) returns"
            )
        scores = latent_scores(adapted, self.space, self.target_class, rng)
        return layers_of(adapted, scores.topk(self.k).indices.tolist(), self.layer_map)


def adaptive_layers(
    k: int,
    space: ClipSpace | None = None,
    target_class: str | None = None,
    layer_map: LayerMap = "official",
) -> AdaptiveLayers:
    """StyleGAN-NADA's adaptive layer selection (section 4.2 of the paper): at every step the k
    layers move that the target text pulls most.

    space, target_class: what scores them; `bind` can supply both later. layer_map: which layer an
    entry of w+ stands for, see `layers_of`. With k at least the number of layers, every selectable
    layer is trained and nothing is scored: the result is the same and the step four times cheaper.
    Raises AirlibError for k < 1.
    """
    return AdaptiveLayers(k, layer_map, space, target_class)
