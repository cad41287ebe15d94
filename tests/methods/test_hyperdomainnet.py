"""HyperDomainNet: sizes of the paper, images per domain, sampling of texts, and what it saves."""

import pytest
import torch
import torch.nn.functional as F
from small_networks import small_generator, small_space

from airlib.adaptation import Adaptation
from airlib.errors import AirlibError
from airlib.generators.identity import fingerprint
from airlib.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from airlib.methods.hyperdomainnet import (
    HyperConfig,
    HyperDomainNet,
    Texts,
    domain_names,
    draw,
    hyper_losses,
    shaken,
    with_domains,
)
from airlib.parameterizations.stylegan2 import domain_vector, trainable_numbers
from airlib.seeding import rng

SOURCE, SPACE = small_generator(), small_space()
DOMAINS = [("photo", "sketch"), ("photo", "cartoon"), ("human", "cat")]
LATENTS = SOURCE.sample_latents(3, rng(0, "latents"))


def texts() -> Texts:
    return Texts.of(SPACE.encoders[0], DOMAINS, ("a {}", "the {}"))


def widths_of(generator: StyleGAN2) -> list[int]:
    return [layer.domain.numel() for layer in with_domains(generator).synthesis.layers]


def small_network() -> HyperDomainNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = HyperDomainNet(widths_of(SOURCE), 32, backbone_depth=2, head_depth=2)
        for parameter in network.parameters():  # away from the start, where all texts give ones
            parameter.data += 0.1 * torch.randn(parameter.shape)
    return network


@pytest.mark.parametrize(
    ("depths", "numbers"), [((10, 5), 43_973_024), ((4, 2), 13_913_504), ((6, 2), 14_968_224)]
)
def test_the_network_has_the_size_of_the_paper(depths, numbers):
    """facts: paper 43M for depths 10 and 5; the official configurations have 4 and 2, 6 and 2."""
    with torch.device("meta"):
        generator = StyleGAN2(StyleGAN2Config(resolution=1024))
        network = HyperDomainNet(widths_of(generator), 512, *depths)
    assert sum(p.numel() for p in network.parameters()) == numbers


def test_the_budget_of_the_paper():
    """Numbers trained at 1024 pixels, as counted in the official code."""
    with torch.device("meta"):
        found = trainable_numbers(StyleGAN2(StyleGAN2Config(resolution=1024)))
    assert found["domain_vector"] == found["domain_vector_post"] == 6_048
    assert found["full"] == 30_370_060
    assert found["synthesis"] == 26_700_145
    assert found["convolutions"] == 23_583_744
    assert found["affine"] == 3_102_624
    assert found["mapping"] == 2_101_248


@pytest.mark.parametrize(("resolution", "numbers"), [(512, 5952), (256, 5760), (128, 5376)])
def test_vectors_of_smaller_generators(resolution, numbers):
    with torch.device("meta"):
        assert sum(widths_of(StyleGAN2(StyleGAN2Config(resolution=resolution)))) == numbers


def test_a_saved_domain_is_small_and_fits_its_own_source_only(tmp_path):
    """At 1024 pixels, the published size; the whole generator has 121 MB."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        source = StyleGAN2(StyleGAN2Config(resolution=1024)).requires_grad_(False).eval()
    vectors = domain_vector().attach(source.copy_frozen())
    domain = {
        name: 1 + 0.1 * torch.randn(v.shape, generator=rng(0, name)) for name, v in vectors.items()
    }
    config = {"source": fingerprint(source), "parameterization": "domain_vector", "labels": {}}
    path = Adaptation(domain, config).save(tmp_path / "domain.safetensors")
    assert sum(v.numel() for v in domain.values()) == 6_048
    assert path.stat().st_size < 30_000
    loaded = Adaptation.load(path).apply(source).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in domain.items())
    source.synthesis.b4.const.mul_(1.01)
    with pytest.raises(AirlibError, match="another source generator"):
        Adaptation.load(path).apply(source)


# --- images --------------------------------------------------------------------------------------


def test_vectors_of_ones_draw_the_source_bit_for_bit():
    generator = with_domains(SOURCE)
    ones = [torch.ones(3, width) for width in widths_of(SOURCE)]
    assert torch.equal(draw(generator, ones, LATENTS), SOURCE(LATENTS))


def test_each_image_of_a_batch_has_its_own_domain():
    """Drawn together or one by one: row i of the vectors and nothing else acts on image i."""
    generator, network = with_domains(SOURCE), small_network().eval()
    vectors = network(texts().inputs)
    together = draw(generator, vectors, LATENTS)
    for i in range(3):
        alone = draw(generator, [v[i : i + 1] for v in vectors], LATENTS[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(together, SOURCE(LATENTS), atol=1e-2)


def test_a_predicted_domain_is_a_domain_vector(tmp_path):
    """What the network draws is what its vectors draw as a saved adaptation, on a fresh copy."""
    generator, network = with_domains(SOURCE), small_network().eval()
    with torch.no_grad():
        vectors = network(texts().inputs[:1])
        drawn = draw(generator, [v.expand(3, -1) for v in vectors], LATENTS)
    tensors = dict(zip(domain_names(generator), [v[0] for v in vectors], strict=True))
    trained = domain_vector().attach(SOURCE.copy_frozen())
    assert {n: v.shape for n, v in tensors.items()} == {n: v.shape for n, v in trained.items()}
    config = {"source": fingerprint(SOURCE), "parameterization": "domain_vector"}
    saved = Adaptation(tensors, config).save(tmp_path / "d.safetensors")
    loaded = Adaptation.load(saved).apply(SOURCE)
    torch.testing.assert_close(loaded(LATENTS), drawn, atol=1e-6, rtol=1e-5)
    with pytest.raises(AirlibError, match="another source generator"):
        Adaptation.load(saved).apply(small_generator(seed=1))


# --- texts ---------------------------------------------------------------------------------------


def test_texts_of_the_list_are_unit_vectors_of_the_right_domain():
    known = texts()
    drawn = known.drawn(50, rng(0, "drawn"))
    rows = [int((known.inputs @ x).argmax()) for x in drawn.inputs]
    assert set(rows) == {0, 1, 2}
    assert torch.equal(drawn.targets, known.targets[rows])
    assert torch.equal(drawn.sources, known.sources[rows])


def test_the_convex_hull_keeps_length_and_source():
    """Mixtures are of unit length, lie in the span of the list, and a shared source stays."""
    corners = torch.eye(6)
    known = Texts(corners[:3], corners[:3, None], corners[5:].expand(3, -1)[:, None])
    mixed = known.mixed(40, rng(0, "mixed"), nearest=1.0)
    for part in (mixed.inputs, mixed.targets, mixed.sources):
        torch.testing.assert_close(part.norm(dim=-1), torch.ones(part.shape[:-1]))
    torch.testing.assert_close(mixed.sources[:, 0], corners[5:].expand(40, -1))
    torch.testing.assert_close(mixed.inputs, mixed.targets[:, 0])
    assert (mixed.inputs[:, 3:] == 0).all() and (mixed.inputs >= 0).all()
    largest = mixed.inputs.max(dim=1).values
    assert (largest > 0.999).any() and (largest < 0.9).any(), "some are nearly pure, some are not"


def test_shaken_vectors_keep_their_distance():
    unit = F.normalize(torch.randn(2000, 16, generator=rng(0, "unit")), dim=1)
    cosines = (shaken(unit, 0.75, rng(1, "shake")) * unit).sum(1)
    assert cosines.min() >= 0.75 - 1e-6
    assert abs(cosines.mean().item() - 0.875) < 0.01  # uniform on [0.75, 1]
    assert torch.equal(shaken(unit, 1.0, rng(1, "shake")).round(decimals=5), unit.round(decimals=5))
    with pytest.raises(AirlibError, match="cosine"):
        shaken(unit, 1.5, rng(0, "x"))


def test_an_empty_list_is_refused():
    with pytest.raises(AirlibError, match="at least one domain"):
        Texts.of(SPACE.encoders[0], [], ("a {}",))


# --- losses --------------------------------------------------------------------------------------


def test_losses_by_hand():
    """Two images that move exactly as their texts do, with vectors one half above one."""
    targets, sources = torch.eye(4)[:2, None], torch.eye(4)[2:, None]
    words = Texts(torch.eye(4)[:2], targets, sources)
    source, adapted = torch.eye(4)[2:], torch.eye(4)[:2]
    vectors = [torch.full([2, 5], 1.5), torch.full([2, 3], 1.5)]
    terms = hyper_losses(source, adapted, words, vectors, HyperConfig(tt_direction=0.4, norm=0.8))
    assert terms["direction"].item() == pytest.approx(0, abs=1e-6)
    assert terms["tt_direction"].item() == pytest.approx(0, abs=1e-6)
    assert terms["norm"].item() == pytest.approx(0.8 * 2 * 0.25)  # the code: L c^2
    away = hyper_losses(source, adapted.flip(0), words, vectors, HyperConfig())
    assert away["tt_direction"].item() == pytest.approx(0.4 * 2)  # exactly the other way


def test_training_reaches_the_network_and_nothing_else():
    generator, network, words = with_domains(SOURCE), small_network(), texts()
    vectors = network(words.inputs)
    adapted = SPACE.embed_images(draw(generator, vectors, LATENTS))[0]
    source = SPACE.embed_images(SOURCE(LATENTS))[0]
    terms = hyper_losses(source, adapted, words, vectors, HyperConfig())
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert all(p.grad is None for p in generator.parameters())
