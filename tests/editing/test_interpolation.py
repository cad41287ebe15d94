"""Interpolation: the geometry of walks, models between models, and how smooth the way is."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from small_networks import small_generator, small_space, small_unet
from torch import Tensor, nn

from airlib.adaptation import Adaptation, AdaptationConfig, adapt
from airlib.editing.interpolation import Blend, alphas, between, mix, smoothness, walk
from airlib.editing.style_mixing import mix_styles
from airlib.errors import AirlibError
from airlib.evaluation.perceptual import PerceptualEmbedding
from airlib.generators.diffusion import DiffusionGenerator
from airlib.generators.identity import fingerprint
from airlib.methods.nada import NADA
from airlib.parameterizations.base import Parameterization
from airlib.parameterizations.lora import lora
from airlib.parameterizations.registry import parameterization_named
from airlib.parameterizations.stylegan2 import PARAMETERIZATIONS, full
from airlib.seeding import rng

GAN, UNET = small_generator(), DiffusionGenerator(small_unet(size=8), steps=2)


def normal(*shape: int, purpose: str = "normal") -> Tensor:
    return torch.randn(shape, generator=rng(0, purpose))


# --- walks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linear", "spherical", "cosine"])
@pytest.mark.parametrize("shape", [(16,), (6, 16), (3, 8, 8)])
def test_a_walk_begins_and_ends_exactly_where_it_should(kind, shape):
    start, end = normal(*shape), 3 * normal(*shape, purpose="end")
    path = walk(start, end, 5, kind)
    assert path.shape == (5, *shape)
    assert torch.equal(path[0], start) and torch.equal(path[-1], end)
    torch.testing.assert_close(path.flip(0), walk(end, start, 5, kind), atol=1e-5, rtol=1e-5)
    assert torch.equal(walk(start, end, 2, kind), torch.stack([start, end]))


def test_a_straight_walk_by_hand():
    path = walk(torch.zeros(2), torch.tensor([4.0, 8.0]), 5)
    assert path.tolist() == [[0, 0], [1, 2], [2, 4], [3, 6], [4, 8]]
    middle = walk(torch.zeros(1), torch.ones(1), 4, "cosine")[1:3, 0]
    torch.testing.assert_close(middle, torch.tensor([0.25, 0.75]))  # (1 - cos 60°) / 2


def test_easing_has_no_velocity_at_the_ends_and_its_greatest_in_the_middle():
    shares = torch.tensor(alphas(1001, "cosine"), dtype=torch.float64)
    velocity = shares.diff() * 1000
    assert velocity[0] < 0.003 and velocity[-1] < 0.003 and (velocity > 0).all()
    assert velocity.max().item() == pytest.approx(math.pi / 2, rel=1e-5)
    assert velocity.argmax() in (499, 500)
    torch.testing.assert_close(shares + shares.flip(0), torch.ones_like(shares))


def test_a_turn_keeps_the_length_and_has_equal_angles():
    start = normal(6, 16)
    end = normal(6, 16, purpose="end")
    end = end * start.norm() / end.norm()
    path = walk(start, end, 7, "spherical").flatten(1).double()
    torch.testing.assert_close(path.norm(dim=1), start.norm().double().expand(7), rtol=1e-6, atol=0)
    angles = F.cosine_similarity(path[1:], path[:-1], dim=1).acos()
    torch.testing.assert_close(angles, angles.mean().expand(6), rtol=1e-4, atol=0)
    whole = F.cosine_similarity(path[:1], path[-1:], dim=1).acos()
    assert angles.sum().item() == pytest.approx(whole.item(), rel=1e-4)
    assert walk(start, end, 7)[3].norm() < 0.9 * start.norm()  # which a straight walk does not


def test_a_turn_by_hand():
    """A quarter of a circle in three steps, from length 1 to length 4."""
    path = walk(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 4.0]), 4, "spherical")
    expected = [[1, 0], [2 * math.sqrt(3) / 2, 2 / 2], [3 / 2, 3 * math.sqrt(3) / 2], [0, 4]]
    torch.testing.assert_close(path, torch.tensor(expected))


def test_parallel_latents_are_joined_by_a_straight_line():
    start = normal(16)
    for end in (start, 2 * start, start + 1e-5):
        torch.testing.assert_close(
            walk(start, end, 5, "spherical"), walk(start, end, 5), atol=1e-5, rtol=1e-5
        )


def test_a_walk_through_the_mapping_network_and_one_in_w_have_the_same_ends():
    z = GAN.sample_z(2, rng(0))
    w = GAN.map(z)
    mapped = GAN.map(walk(*z, 5, "spherical"))
    torch.testing.assert_close(mapped[[0, -1]], w, atol=1e-5, rtol=1e-5)
    straight = walk(*w, 5)
    assert not torch.allclose(mapped[2], straight[2], atol=1e-2)
    mixed = mix_styles(straight, w[:1])
    assert torch.equal(mixed[0], w[0]) and torch.equal(mixed[-1, 0], w[1, 0])


@pytest.mark.parametrize(
    ("start", "end", "n", "kind", "words"),
    [
        (torch.ones(3), torch.ones(4), 5, "linear", r"from \[3\] to \[4\]: shapes differ"),
        (torch.ones(3), torch.ones(3), 1, "linear", "at least 2"),
        (torch.ones(3), torch.ones(3), 5, "cubic", "choose linear, spherical or cosine"),
        (torch.ones(3), -torch.ones(3), 5, "spherical", "no one arc"),
        (torch.ones(3), torch.zeros(3), 5, "spherical", "zeros has no direction"),
    ],
)
def test_walks_that_do_not_exist_are_refused(start, end, n, kind, words):
    with pytest.raises(AirlibError, match=words):
        walk(start, end, n, kind)


# --- models --------------------------------------------------------------------------------------


def made(source: nn.Module, parameterization: Parameterization, seed: int) -> Adaptation:
    """An adaptation with random changes of everything that may move."""
    trainable = parameterization.attach(source.copy_frozen())
    tensors = {
        name: value.detach() + 0.1 * torch.randn(value.shape, generator=rng(seed, name))
        for name, value in trainable.items()
    }
    config = {"source": fingerprint(source), "parameterization": parameterization.name}
    return Adaptation(tensors, {**config, "labels": {"seed": seed}})


def gan(name: str) -> Callable[[int], Adaptation]:
    return lambda seed: made(GAN, PARAMETERIZATIONS[name](), seed)


KINDS = {
    "synthesis": (GAN, gan("synthesis")),
    "domain_vector": (GAN, gan("domain_vector")),
    "domain_vector_post": (GAN, gan("domain_vector_post")),
    "singular_values": (GAN, gan("singular_values")),
    "latent_direction": (GAN, gan("latent_direction")),
    "lora": (UNET, lambda seed: made(UNET, lora(2, seed=seed), seed)),
    "unet": (UNET, lambda seed: made(UNET, full(), seed)),
}


@torch.no_grad()
def images(generator: nn.Module) -> Tensor:
    return generator(generator.sample_latents(2, rng(0)), generator.sample_noise(2, rng(1)))


def weight_changes(generator: nn.Module, source: nn.Module) -> dict[str, Tensor]:
    """What is added to the weights, LoRA and singular values multiplied out; of domain vectors,
    d - 1.
    """
    state, changes = generator.state_dict(), {}
    for name, value in state.items():
        if name.endswith(".lora_A.default.weight"):
            b = state[name.replace("lora_A", "lora_B")]
            changes[name.split(".lora_")[0]] = b.double().flatten(1) @ value.double().flatten(1)
        elif name.endswith(".parametrizations.weight.original"):
            layer = generator.get_submodule(name.removesuffix(".parametrizations.weight.original"))
            changes[name] = layer.weight.double() - value.double()
        elif name in source.state_dict():
            changes[name] = value.double() - source.state_dict()[name].double()
        elif ".lora_" not in name and "base_layer" not in name:
            changes[name] = value.double() - float("domain" in name)
    return changes


@pytest.mark.slow  # adapts
@pytest.mark.parametrize("kind", KINDS)
def test_the_ends_are_source_and_target_bit_for_bit(kind, tmp_path):
    source, make = KINDS[kind]
    a, b = make(1), make(2)
    plain, target = images(source), images(a.apply(source))
    assert not torch.allclose(plain, target, atol=1e-3)
    for alpha, expected in ((0.0, plain), (1.0, target)):
        path = between(source, a, alpha).save(tmp_path / "made.safetensors")
        assert torch.equal(images(Adaptation.load(path).apply(source)), expected)
    for shares, expected in (([1, 0], target), ([0, 1], images(b.apply(source))), ([0, 0], plain)):
        assert torch.equal(images(mix(source, [a, b], shares).apply(source)), expected)


@pytest.mark.slow  # adapts
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shares", [(0.5, 0.0), (0.3, 0.6), (1.7, -0.4)])
def test_changes_add_up(kind, shares):
    source, make = KINDS[kind]
    a, b = make(1), make(2)
    found = weight_changes(mix(source, [a, b], shares).apply(source), source)
    first, second = (weight_changes(one.apply(source), source) for one in (a, b))
    assert found.keys() == first.keys() == second.keys()
    for name, change in found.items():
        expected = shares[0] * first[name] + shares[1] * second[name]
        torch.testing.assert_close(change, expected, atol=1e-6, rtol=1e-5)


def with_changes(source: nn.Module, changes: dict[str, Tensor]) -> nn.Module:
    """A copy of the source whose weights, vectors and direction are changed by hand."""
    copy = source.copy_frozen()
    for name, change in changes.items():
        name = name.replace(".parametrizations.weight.original", ".weight")
        module, _, end = name.rpartition(".")
        if end in ("domain", "domain_post"):
            tensor = copy.get_submodule(module).add_domain({"domain": "pre"}.get(end, "post"))
        elif name == "direction":
            tensor = copy.add_direction()
        elif name.endswith(".0.change"):
            continue  # it is in the weight
        elif name in copy.state_dict():
            tensor = copy.state_dict()[name]
        else:  # of LoRA, for the weight of a layer
            tensor = copy.get_submodule(name).weight
        tensor.data += change.view_as(tensor)
    return copy.requires_grad_(False)


EVERY = [*PARAMETERIZATIONS, "layers4", "layers4_corrected", "affine + domain_vector"]
EVERY += ["lora2", "lora3_attention", "lora1_convolutions"]


@pytest.mark.parametrize("name", EVERY)
def test_a_mixture_draws_what_weights_mixed_by_hand_draw(name):
    source = UNET if name.startswith("lora") else GAN
    pair = [made(source, parameterization_named(name), seed) for seed in (1, 2)]
    shares = (0.4, 0.3)
    total: dict[str, Tensor] = {}
    for one, share in zip(pair, shares, strict=True):
        for key, change in weight_changes(one.apply(source), source).items():
            total[key] = total.get(key, 0) + share * change
    found = images(mix(source, pair, shares).apply(source))
    expected = images(with_changes(source, total))
    moved = (expected - images(source)).abs().max().item()
    assert moved > 1e-3
    torch.testing.assert_close(found, expected, atol=1e-3 * moved, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_blend_is_the_mixture_of_its_shares_whatever_it_was_before(kind):
    source, make = KINDS[kind]
    pair = [make(1), make(2)]
    blend = Blend(source, pair)
    for shares in ([0.3, 0.6], [0.0, 1.0], [0.0, 0.0], [1.7, -0.4], [1.0, 0.0]):
        expected = images(mix(source, pair, shares).apply(source))
        assert torch.equal(images(blend(shares)), expected)
    assert torch.equal(images(source), images(blend([0.0, 0.0])))


def test_a_blend_forgets_what_only_one_of_its_parts_has():
    weights, vector = gan("convolutions")(1), gan("domain_vector")(2)
    blend = Blend(GAN, [weights, vector])
    blend([0.0, 0.5])
    assert torch.equal(images(blend([1.0, 0.0])), images(weights.apply(GAN)))


def test_a_blend_refuses_another_source_before_it_mixes():
    with pytest.raises(AirlibError, match="one source can be mixed"):
        Blend(GAN, [gan("synthesis")(1), KINDS["lora"][1](1)])


def test_adapters_of_other_ranks_and_layers_add_up_too():
    attention = made(UNET, lora(3, ["attention"]), 1)
    convolutions = made(UNET, lora(2, ["convolutions"]), 2)
    mixed = mix(UNET, [attention, convolutions], [0.5, 2.0])
    found = weight_changes(mixed.apply(UNET), UNET)
    parts = [weight_changes(one.apply(UNET), UNET) for one in (attention, convolutions)]
    for share, part in zip((0.5, 2.0), parts, strict=True):
        for name, change in part.items():
            if change.abs().max() > 0:
                torch.testing.assert_close(found[name], share * change, atol=1e-6, rtol=1e-5)


def test_weights_and_a_domain_vector_act_together():
    weights, vector = gan("convolutions")(1), gan("domain_vector")(2)
    both = mix(GAN, [weights, vector], [1.0, 1.0])
    assert len(both.tensors) == len(weights.tensors) + len(vector.tensors)
    assert both.config["mixture"][1] == {"share": 1.0, **vector.config}
    expected = vector.apply(GAN)
    expected.load_state_dict(weights.tensors, strict=False)
    torch.testing.assert_close(images(both.apply(GAN)), images(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.slow  # adapts
def test_what_was_trained_can_be_halved():
    space = small_space()
    config = AdaptationConfig(steps=3, batch=2, learning_rate=0.01)
    trained = adapt(UNET, space, NADA(space, "human", "dog"), lora(2), config)
    frames = [images(between(UNET, trained, alpha).apply(UNET)) for alpha in alphas(5)]
    assert torch.equal(frames[0], images(UNET))
    assert torch.equal(frames[-1], images(trained.apply(UNET)))
    whole = (frames[-1] - frames[0]).norm()
    steps = torch.stack([(b - a).norm() for a, b in zip(frames[:-1], frames[1:], strict=True)])
    assert (steps > 0.1 * whole).all() and (steps < 0.5 * whole).all()


@pytest.mark.parametrize(
    ("adaptations", "shares", "words"),
    [
        ([], [], "cannot mix 0 adaptations"),
        ([gan("synthesis")(1)], [1.0, 2.0], "one finite number for each"),
        ([gan("synthesis")(1)], [float("nan")], "one finite number for each"),
        ([gan("synthesis")(1), KINDS["lora"][1](1)], [0.5, 0.5], "one source can be mixed"),
    ],
)
def test_what_cannot_be_mixed_is_refused(adaptations, shares, words):
    with pytest.raises(AirlibError, match=words):
        mix(GAN, adaptations, shares)


@pytest.mark.parametrize("others", ["synthesis", "convolutions", "full", "layers3"])
def test_singular_values_are_not_mixed_with_whole_weights(others):
    pair = [gan("singular_values")(1), made(GAN, parameterization_named(others), 2)]
    for order in (pair, pair[::-1]):
        with pytest.raises(AirlibError, match="cannot act together: one replaces weights"):
            mix(GAN, order, [0.5, 0.5])


def test_lora_is_not_mixed_with_whole_weights():
    with pytest.raises(AirlibError, match=r"lora2 \+ full cannot act together"):
        mix(UNET, [KINDS["lora"][1](1), KINDS["unet"][1](2)], [0.5, 0.5])


# --- smoothness ----------------------------------------------------------------------------------


def linear_toy(latents: Tensor) -> Tensor:
    """Images [n, 3, 2, 2] that are a matrix times latents [n, 4]."""
    return (latents @ normal(4, 12, purpose="toy")).view(-1, 3, 2, 2)


def flat(images: Tensor) -> Tensor:
    return images.flatten(1)


def test_standing_still_has_no_length():
    start = normal(4)
    found = smoothness(linear_toy(walk(start, start, 9)), flat)
    assert found.path_length == 0 and found.largest_step == 1 and not found.steps.any()


@pytest.mark.parametrize("n", [3, 10, 200])
def test_a_linear_generator_by_hand(n):
    """d = |A (e - s)|^2 / (n - 1)^2 in each step, so the path length is |A (e - s)|^2."""
    start, end = normal(4), normal(4, purpose="end")
    expected = (linear_toy((end - start)[None])).square().sum().item()
    found = smoothness(linear_toy(walk(start, end, n)), flat)
    assert found.path_length == pytest.approx(expected, rel=1e-3)
    assert found.largest_step == pytest.approx(1, rel=1e-3)
    assert found.steps.shape == (n - 1,)
    assert found.steps.sqrt().sum().item() == pytest.approx(math.sqrt(expected), rel=1e-3)


def test_easing_costs_its_mean_squared_velocity():
    """(pi / 2 sin)^2 has the mean pi^2 / 8; its largest step is pi / 2 of the mean."""
    start, end = normal(4), normal(4, purpose="end")
    even, eased = (
        smoothness(linear_toy(walk(start, end, 300, k)), flat) for k in ("linear", "cosine")
    )
    assert eased.path_length / even.path_length == pytest.approx(math.pi**2 / 8, rel=1e-2)
    assert eased.largest_step == pytest.approx(math.pi / 2, rel=1e-2)


def test_one_jump_is_seen():
    frames = torch.cat([torch.zeros(6, 3, 2, 2), torch.ones(4, 3, 2, 2)])
    found = smoothness(frames, flat)
    assert (
        found.largest_step == pytest.approx(9) and found.steps.tolist() == [0] * 5 + [12] + [0] * 3
    )
    assert found.path_length == pytest.approx(12 / 9 * 81)


def test_batches_are_one_walk_and_every_image_is_seen_once():
    frames, seen = torch.rand(7, 3, 8, 8, generator=rng(0)), []
    perceptual = PerceptualEmbedding(lambda x: (seen.append(len(x)), [F.avg_pool2d(x, 2)])[1])
    whole = smoothness(frames, perceptual)
    assert seen == [7]
    parts = smoothness(iter(frames.split(3)), perceptual)
    assert seen == [7, 3, 3, 1]
    torch.testing.assert_close(parts.steps, whole.steps)
    expected = perceptual.paired_distance(frames[1:], frames[:-1])
    torch.testing.assert_close(whole.steps.float(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("frames", [torch.zeros(1, 3, 2, 2), torch.zeros(0, 3, 2, 2), iter([])])
def test_fewer_than_two_images_are_refused(frames):
    with pytest.raises(AirlibError, match="at least two"):
        smoothness(frames, flat)
