"""The tiny world: what a portrait depends on, how it looks, what is said about it, pools."""

import itertools
import random
import re

import pytest
import torch
import torch.nn.functional as F

from airlib.errors import AirlibError
from airlib.seeding import rng
from airlib.tinyworld import pool
from airlib.tinyworld.attributes import attributes_from_latent
from airlib.tinyworld.captions import STYLE_PHRASES, captions, lexicon
from airlib.tinyworld.domains import AGES, SPECIES, STYLES, Domain, all_domains
from airlib.tinyworld.renderer import render
from airlib.tinyworld.shapes import capsule, ellipse


def latents(n: int, purpose: str = "latents") -> torch.Tensor:
    return torch.randn(n, 64, generator=rng(0, "test renderer", purpose))


@pytest.fixture(scope="module")
def every_domain() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(latents, domains, images): one portrait in each of the 114 domains."""
    domains = torch.tensor([domain.index for domain in all_domains()])
    z = latents(len(domains))
    return z, domains, render(z, domains)


# --- domains


def test_there_are_114_domains_and_only_humans_grow_old():
    domains = all_domains()
    assert len(set(domains)) == 114
    assert {domain.species for domain in domains if domain.age == "elderly"} == {"human"}
    for domain in domains:
        assert Domain.from_index(*domain.index) == domain
        assert Domain.parse(str(domain)) == domain


@pytest.mark.parametrize(
    ("names", "allowed"),
    [
        (("wolf", "adult", "photo"), SPECIES),
        (("dog", "old", "photo"), AGES[:2]),
        (("dog", "elderly", "photo"), AGES[:2]),
        (("human", "old", "photo"), AGES),
        (("human", "adult", "oil painting"), STYLES),
    ],
)
def test_unknown_names_are_refused_with_the_allowed_words(names, allowed):
    with pytest.raises(AirlibError, match=", ".join(allowed)):
        Domain(*names)


@pytest.mark.parametrize(
    ("z", "domains"),
    [
        (torch.zeros(2, 63), Domain("dog")),
        (torch.zeros(64), Domain("dog")),
        (torch.zeros(2, 64), torch.zeros(3, 3, dtype=torch.long)),
        (torch.zeros(2, 64), torch.zeros(2, 3)),
        (torch.zeros(1, 64), torch.tensor([[0, 0, 6]])),
        (torch.zeros(1, 64), torch.tensor([[-1, 0, 0]])),
        (torch.zeros(1, 64), torch.tensor([Domain("dog").index]) + torch.tensor([[0, 2, 0]])),
    ],
)
def test_render_refuses_wrong_shapes_and_domains(z, domains):
    with pytest.raises(AirlibError):
        render(z, domains)


# --- images


def test_images_are_finite_in_range_and_never_flat(every_domain):
    _, _, images = every_domain
    assert images.shape == (114, 3, 64, 64) and images.dtype == torch.float32
    assert images.min() >= -1 and images.max() <= 1  # also false for NaN
    assert (images.flatten(1).std(1) > 0.1).all()


def test_a_portrait_depends_on_its_latent_and_domain_alone(every_domain):
    z, domains, images = every_domain
    order = torch.randperm(len(z), generator=rng(1))
    assert torch.equal(render(z[order], domains[order]), images[order])
    for i in range(0, len(z), 10):
        assert torch.equal(render(z[i : i + 1], domains[i : i + 1]), images[i : i + 1])
    one = Domain.from_index(*domains[7].tolist())
    assert torch.equal(render(z[7:9], one)[0], images[7])


def test_the_scale_of_a_latent_does_not_matter():
    z = latents(4)
    assert (render(z, Domain("cat")) - render(z * 3, Domain("cat"))).abs().mean() < 1e-4


def test_same_latent_has_the_same_pose_light_and_background_in_every_domain():
    z = latents(5)
    shared = ("center_x", "center_y", "rotation", "scale", "yaw", "pitch", "light_x", "light_y")
    shared += ("brightness", "gaze", "background_color", "bokeh", "smile", "surprise")
    human = attributes_from_latent(z, Domain("human"))
    for domain in all_domains():
        other = attributes_from_latent(z, domain)
        for name in shared:
            assert torch.equal(getattr(other, name), getattr(human, name)), (str(domain), name)


def test_photos_of_one_latent_share_the_wall_behind_the_sitter():
    z = latents(5)
    human = render(z, Domain("human"))
    for species, age in itertools.product(SPECIES, AGES[:2]):
        other = render(z, Domain(species, age))
        assert torch.equal(other[..., :12, :5], human[..., :12, :5])
        assert (other - human).abs().mean() > 0.02 or (species, age) == ("human", "adult")


@pytest.mark.parametrize("style", ["photo", "pixar", "watercolor"])
def test_a_larger_picture_shows_the_same_portrait(style):
    domain = Domain("human", style=style)
    z = latents(8)
    small, large = render(z, domain), F.avg_pool2d(render(z, domain, size=128), 2)
    difference = (small - large).abs().mean()
    assert difference < 0.1 * (small - small.roll(1, 0)).abs().mean()


def test_styles_differ_and_sketches_are_grey():
    z = latents(8)
    images = {style: render(z, Domain("human", style=style)) for style in STYLES}
    for first, second in itertools.combinations(STYLES, 2):
        assert (images[first] - images[second]).abs().mean() > 0.05, (first, second)
    sketch = images["sketch"]
    assert torch.equal(sketch, sketch[:, :1].expand_as(sketch))
    assert all((images[s].std(1).mean() > 0.05) for s in STYLES if s != "sketch")


def test_distances_to_simple_shapes():
    x, y = torch.tensor([3.0, 0.0, 1.0]), torch.tensor([4.0, 2.0, 0.0])
    radius = torch.tensor(2.0)
    torch.testing.assert_close(ellipse(x, y, 0.0, 0.0, radius, radius), torch.tensor([3.0, 0, -1]))
    # A stroke from (0, 0) to (1, 0), radius 0.5: its caps are round.
    ends = (torch.tensor(0.0), torch.tensor(0.0)), (torch.tensor(1.0), torch.tensor(0.0))
    expected = torch.tensor([20**0.5, 2.0, 0.0]) - 0.5
    torch.testing.assert_close(capsule(x, y, *ends, 0.5, 0.5), expected)


# --- attributes


def test_attributes_slice_like_tensors():
    attributes = attributes_from_latent(latents(6), Domain("fox"))
    part = attributes[2:5]
    assert (len(attributes), len(part)) == (6, 3)
    assert torch.equal(part.fur_color, attributes.fur_color[2:5])
    assert torch.equal(part.anatomy.eye_x, attributes.anatomy.eye_x[2:5])


def test_species_and_ages_have_only_their_own_features():
    z = latents(500)
    seen = {}
    for domain in all_domains()[:: len(STYLES)]:
        attributes = attributes_from_latent(z, domain)
        seen[domain.species, domain.age] = {
            name
            for name in ("glasses", "beard", "stripes", "eye_patch")
            if getattr(attributes, name).max() > 0.5
        }
    grown = {"glasses", "beard"}
    expected = {("human", "adult"): grown, ("human", "elderly"): grown}
    expected |= {("cat", age): {"stripes"} for age in AGES[:2]}
    expected |= {("dog", age): {"eye_patch"} for age in AGES[:2]}
    assert {key: features for key, features in seen.items() if features} == expected


# --- captions


@pytest.fixture(scope="module")
def described():
    """(attributes, domains, captions) of 4,000 portraits."""
    domains = pool.sample_domains(4000, rng(2))
    attributes = attributes_from_latent(latents(4000), domains)
    return attributes, domains, captions(attributes, random.Random(0))


def mentions(sentences: list[str], pattern: str) -> torch.Tensor:
    return torch.tensor([re.search(rf"\b({pattern})\b", s) is not None for s in sentences])


def test_captions_mention_only_what_the_attributes_say(described):
    attributes, domains, sentences = described
    species, age, style = domains.unbind(1)
    truths = {
        "glasses": attributes.glasses > 0.5,
        "beard": attributes.beard > 0.5,
        "smiling": attributes.smile > 0.5,
        "sad": attributes.sadness > 0.5,
        "surprised": attributes.surprise > 0.5,
        "long \\w+ hair": attributes.hair_length > 0.4,
        "short \\w+ hair": attributes.hair_length <= 0.4,
        "woman": attributes.female & (species == 0) & (age != 1),
        "man": ~attributes.female & (species == 0) & (age != 1),
        "baby|puppy|kitten|cub": age == 1,
        "old|elderly": age == 2,
        "puppy": (species == SPECIES.index("dog")) & (age == 1),
        "kitten": (species == SPECIES.index("cat")) & (age == 1),
    }
    truths |= {name: species == i for i, name in enumerate(SPECIES)}
    truths |= {
        words: style == STYLES.index(name)
        for name in STYLES[1:]
        for words in ("|".join(STYLE_PHRASES[name]),)
    }
    for pattern, truth in truths.items():
        said = mentions(sentences, pattern)
        assert said.any(), f"no caption says {pattern}"
        assert truth[said].all(), f"a caption wrongly says {pattern}"


def test_named_colours_are_the_nearest(described):
    attributes, _, sentences = described
    blond, black = mentions(sentences, "blond hair"), mentions(sentences, "black hair")
    brightness = attributes.hair_color.mean(1)
    assert brightness[blond].min() > 0.4 and brightness[black].max() < 0.3
    green = attributes.background_color[mentions(sentences, "green background")]
    assert (green[:, 1] > green[:, 0]).all()
    assert (green[:, 1] > green[:, [0, 2]].amax(1)).float().mean() > 0.9


def test_shares_of_the_kinds_of_captions(described):
    _, domains, sentences = described
    templates = torch.tensor([s.endswith(".") for s in sentences]).float().mean()
    bare_style = torch.tensor([s in STYLES for s in sentences]).float().mean()
    assert abs(templates - 0.25) < 0.03  # 4 standard deviations
    assert abs(bare_style - 0.75 * 0.05) < 0.013
    assert len(set(sentences)) > 0.5 * len(sentences)


def test_captions_repeat_with_their_random_state(described):
    attributes, _, sentences = described
    assert captions(attributes[:50], random.Random(3)) == captions(
        attributes[:50], random.Random(3)
    )
    assert captions(attributes[:50], random.Random(4)) != sentences[:50]


def test_captions_use_the_lexicon_and_fit_the_text_encoder(described):
    from open_clip.tokenizer import SimpleTokenizer

    _, _, sentences = described
    words = lexicon()
    assert words == sorted(set(words))
    used = {word for s in sentences for word in re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]+", s)}
    assert used <= set(words)
    encode = SimpleTokenizer().encode
    assert max(len(encode(s)) + 2 for s in set(sentences)) < 24  # start and end included


# --- pools


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRLIB_CACHE", str(tmp_path))
    return tmp_path


def test_a_pool_is_rendered_once_and_read_back_unchanged(cache, monkeypatch):
    first = pool.load_pool(40, 0, "test")
    monkeypatch.setattr(pool, "render", lambda *_: pytest.fail("rendered again"))
    again = pool.load_pool(40, 0, "test")
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a, b) and a.dtype == b.dtype
    expected = render(first.latents, first.domains)
    assert (first.pictures(slice(None)) - expected).abs().max() <= 1 / 255 + 1e-6


@pytest.mark.slow  # renders thousands of portraits
def test_worker_processes_render_the_same_pool(monkeypatch):
    monkeypatch.setattr(pool, "BLOCK", 16)
    alone = pool.render_pool(72, 5, "train")
    monkeypatch.setattr(pool, "PARALLEL_FROM", 32)
    together = pool.render_pool(72, 5, "train")
    assert torch.equal(alone.images, together.images)


@pytest.mark.slow  # renders thousands of portraits
def test_splits_and_seeds_share_no_latent(cache):
    pools = [pool.load_pool(20, s, split) for s in (0, 1) for split in ("train", "test")]
    rows = torch.cat([p.latents for p in pools])
    assert len(torch.unique(rows, dim=0)) == len(rows)
    assert len(list((cache / "pools").iterdir())) == len(pools)


def test_a_damaged_cache_file_is_reported(cache):
    path = pool.pool_path(20, 0, "train")
    pool.load_pool(20, 0, "train")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(AirlibError, match="damaged"):
        pool.load_pool(20, 0, "train")


@pytest.mark.parametrize(("n", "split"), [(0, "train"), (10, "validation")])
def test_impossible_pools_are_refused(cache, n, split):
    with pytest.raises(AirlibError):
        pool.load_pool(n, 0, split)


def test_pools_contain_the_domains_in_their_shares():
    shares = pool.domain_shares()
    assert set(shares) == set(all_domains())
    assert sum(shares.values()) == pytest.approx(1)
    assert shares[Domain("human")] == 0.15 and shares[Domain("dog")] == 0.06
    # Within the rest, weights multiply: 0.28 babies to 0.10 elderly, 3 photos to 1.1 sketches.
    baby, elderly = shares[Domain("human", "baby")], shares[Domain("human", "elderly")]
    assert baby / elderly == pytest.approx(2.8)
    assert baby / shares[Domain("human", "baby", "sketch")] == pytest.approx(3 / 1.1)
    drawn = pool.sample_domains(20_000, rng(3))
    human_photos = (drawn == torch.tensor(Domain("human").index)).all(1).float().mean()
    assert abs(human_photos - 0.15) < 0.0102  # 4 standard deviations
