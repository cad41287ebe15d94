"""Study 1: the formulas by hand, against the loop over pairs, their symmetries, and the null."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from airlib.errors import AirlibError
from airlib.seeding import rng
from airlib.studies.misalignment.concepts import (
    ConceptEmbeddings,
    class_prompt,
    embed_image_folder,
    embed_tiny_world,
)
from airlib.studies.misalignment.offsets import (
    OffsetSplit,
    binned_means,
    misalignment,
    spearman,
    split_offsets,
    study,
    subset,
)
from airlib.tinyworld.domains import Domain, all_domains


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=rng(seed, "test"), dtype=torch.float64)


def concepts(images, texts) -> ConceptEmbeddings:
    return ConceptEmbeddings(tuple(f"c{i}" for i in range(len(images))), images, texts)


def by_loop(images, texts) -> tuple[torch.Tensor, torch.Tensor]:
    def cosine(a, b):
        return (a @ b / (a.norm() * b.norm())).item()

    count = range(len(images))
    pairs = [(a, b) for a in count for b in count if a < b]
    m = [1 - cosine(images[b] - images[a], texts[b] - texts[a]) for a, b in pairs]
    d = [1 - cosine(images[a], images[b]) for a, b in pairs]
    return torch.tensor(m, dtype=torch.float64), torch.tensor(d, dtype=torch.float64)


def test_three_concepts_by_hand():
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    found = misalignment(images, texts)
    # a -> b: both offsets are (-1, 1); a -> c: (0, 1) and (1, 0); b -> c: (1, 0) and (2, -1)
    assert found.M[0, 1].item() == pytest.approx(0)
    assert found.M[0, 2].item() == pytest.approx(1)
    assert found.M[1, 2].item() == pytest.approx(1 - 2 / math.sqrt(5))
    assert found.D[0, 1].item() == pytest.approx(1)
    assert found.D[0, 2].item() == pytest.approx(1 - 1 / math.sqrt(2))


def test_opposite_offsets_are_misaligned_by_two():
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert misalignment(images, -images).all_pairs()[0].tolist() == pytest.approx([2.0] * 3)
    assert misalignment(images, 3 * images + 1).all_pairs()[0].tolist() == pytest.approx([0.0] * 3)


def test_all_pairs_equal_the_loop_over_pairs():
    images, texts = normal(25, 16), normal(25, 16, seed=1)
    m, d = misalignment(images, texts).all_pairs()
    expected_m, expected_d = by_loop(images, texts)
    assert len(m) == 25 * 24 // 2
    torch.testing.assert_close(m, expected_m, rtol=0, atol=1e-12)
    torch.testing.assert_close(d, expected_d, rtol=0, atol=1e-12)


def test_symmetric_in_the_pair_and_blind_to_a_common_rotation():
    images, texts = normal(12, 8), normal(12, 8, seed=1)
    found, turn = misalignment(images, texts), torch.linalg.qr(normal(8, 8, seed=2)).Q
    off_diagonal = ~torch.eye(12, dtype=torch.bool)
    torch.testing.assert_close(found.M.T[off_diagonal], found.M[off_diagonal])
    torch.testing.assert_close(found.D.T, found.D)
    turned = misalignment(images @ turn, texts @ turn)
    torch.testing.assert_close(turned.M[off_diagonal], found.M[off_diagonal])
    torch.testing.assert_close(turned.D, found.D)
    shifted = misalignment(images, texts + normal(1, 8, seed=3))  # a modality gap changes nothing
    torch.testing.assert_close(shifted.M[off_diagonal], found.M[off_diagonal])


def test_sampled_pairs_are_pairs_of_different_concepts():
    found = misalignment(normal(6, 4), normal(6, 4, seed=1))
    m, d = found.sample_pairs(2000, rng(0, "pairs"))
    known_m, known_d = found.all_pairs()
    for sampled, known in ((m, known_m), (d, known_d)):
        nearest = (sampled[:, None] - known).abs().min(1)
        assert nearest.values.max() < 1e-12
        counts = nearest.indices.bincount(minlength=15)
        assert counts.min() > 80  # 2000 / 15 = 133 expected of each
    assert torch.equal(m, found.sample_pairs(2000, rng(0, "pairs"))[0])


def test_spearman_by_hand_with_ties_and_against_scipy():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert spearman(x, x.exp()) == pytest.approx(1)
    assert spearman(x, -x) == pytest.approx(-1)
    # ranks (1, 2, 3, 4) and (1.5, 1.5, 3, 4): covariance 4.5, variances 5 and 4.5
    tied = torch.tensor([0.0, 0.0, 1.0, 2.0])
    assert spearman(x, tied) == pytest.approx(4.5 / math.sqrt(5 * 4.5))
    stats = pytest.importorskip("scipy.stats")
    a, b = normal(200), (normal(200, seed=1) * 3).round()
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


def test_shuffled_texts_give_a_null_around_zero_and_unrelated_texts_lie_in_it():
    unrelated = study(concepts(normal(40, 32), normal(40, 32, seed=1)), rng(0, "study"), 200)
    assert abs(unrelated.null.mean()) < 0.03
    assert unrelated.p_value > 0.05
    low, high = unrelated.interval
    assert low < unrelated.rho < high
    assert "does not depend" in unrelated.explain()


SPREAD = torch.logspace(-1, 0.5, 50, dtype=torch.float64)[:, None]  # how far out a concept lies


def shared_factors(noise: float | torch.Tensor) -> ConceptEmbeddings:
    """Images and texts share the factors that tell concepts apart; texts add noise of their own."""
    factors = SPREAD * normal(50, 6)
    anchor = torch.tensor([10.0, 0, 0, 0, 0, 0], dtype=torch.float64)
    return concepts(factors + anchor, factors + noise * normal(50, 6, seed=1))


def test_the_sign_is_found_and_explained_either_way():
    even_noise = study(shared_factors(0.5), rng(0, "study"), 100)
    assert even_noise.rho < -0.4 and even_noise.interval[1] < 0
    assert "opposite of what AIR reports" in even_noise.explain()
    noise_far_out = study(shared_factors(3 * SPREAD**2), rng(0, "study"), 100)
    assert noise_far_out.rho > 0.3 and noise_far_out.interval[0] > 0
    assert noise_far_out.p_value < 0.05 and "as AIR reports" in noise_far_out.explain()


def test_few_concepts_leave_any_correlation_possible():
    found = study(concepts(normal(3, 4), normal(3, 4, seed=1)), rng(0, "study"), 50)
    assert found.interval == (-1.0, 1.0) and "does not depend" in found.explain()


def test_study_is_seeded():
    embeddings = concepts(normal(10, 4), normal(10, 4, seed=1))
    first, again = (study(embeddings, rng(5, "study"), 50) for _ in range(2))
    assert torch.equal(first.null, again.null) and first.interval == again.interval
    assert not torch.equal(first.null, study(embeddings, rng(6, "study"), 50).null)


def test_degenerate_concepts_are_refused():
    images, texts = normal(5, 4), normal(5, 4, seed=1)
    with pytest.raises(AirlibError, match="at least 3"):
        misalignment(images[:2], texts[:2])
    with pytest.raises(AirlibError, match="one image mean and one text"):
        misalignment(images, texts[:4])
    texts[3] = texts[1]
    with pytest.raises(AirlibError, match="1 and 3 have the same texts"):
        misalignment(images, texts)
    embeddings = ConceptEmbeddings(("a", "Cat", "b", "cat", "c"), images, texts)
    with pytest.raises(AirlibError, match="concepts 'Cat' and 'cat' have the same texts"):
        study(embeddings, rng(0, "study"), 2)
    with pytest.raises(AirlibError, match="concepts 'Cat' and 'cat' have the same texts"):
        split_offsets(images, texts, embeddings.labels)


def test_nearest_texts_by_hand():
    images = torch.tensor([[0.1, 0.0], [0.5, 0.4], [0.3, 0.4]])
    found = concepts(images, torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])).nearest()
    assert found == ["c0", "c2", "c2"]  # 0.5 * 0.6 + 0.4 * 0.8 is more than 0.5


# --- where concepts come from


class ColorEncoder:
    """A true encoder, if a simple one: the direction of the mean colour; texts by their letters."""

    device = torch.device("cpu")

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        assert images.min() >= -1 and images.max() <= 1
        return torch.nn.functional.interpolate(images, (8, 8))

    def embed_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(pixels.mean((2, 3)) + 2, dim=1)

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        return self.embed_pixels(self.preprocess(images))

    def embed_text(self, texts: list[str]) -> torch.Tensor:
        rows = [[sum(map(ord, text)) % 97, len(text), text.count("e") + 1] for text in texts]
        return torch.nn.functional.normalize(torch.tensor(rows).float(), dim=1)


def test_every_domain_has_its_own_prompt():
    prompts = [class_prompt(domain) for domain in all_domains()]
    assert len(set(prompts)) == 114
    assert class_prompt(Domain("human", "elderly", "sketch")) == "a sketch of an old person"
    assert class_prompt(Domain("fox", "baby", "pixar")) == "a pixar render of a baby fox"


@pytest.mark.slow  # renders thousands of portraits
def test_the_tiny_world_becomes_114_concepts():
    found = embed_tiny_world(ColorEncoder(), seed=0, images_per_class=1)
    again = embed_tiny_world(ColorEncoder(), seed=0, images_per_class=1)
    assert found.image_means.shape == found.texts.shape == (114, 3)
    assert found.labels[0] == str(Domain("human")) and len(set(found.labels)) == 114
    assert torch.equal(found.image_means, again.image_means)


@pytest.fixture
def folder(tmp_path):
    colors = {"red_panda": (255, 0, 0), "frog": (0, 255, 0), "sea": (0, 0, 255)}
    for name, color in colors.items():
        (tmp_path / name).mkdir()
        for i, size in enumerate([(8, 8), (8, 8), (12, 6)]):
            Image.new("RGB", size, color).save(tmp_path / name / f"{i}.png")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "sea" / "notes.txt").write_text("not an image")
    return tmp_path


def test_image_folders_become_concepts(folder):
    found = embed_image_folder(ColorEncoder(), folder, names={"sea": "the ocean"})
    assert found.labels == ("frog", "red panda", "the ocean")
    expected = torch.tensor([[1.0, 3, 1], [3, 1, 1], [1, 1, 3]]).double() / math.sqrt(11)
    torch.testing.assert_close(found.image_means, expected, rtol=0, atol=1e-6)
    texts = ColorEncoder().embed_text([f"a photo of a {label}" for label in found.labels])
    torch.testing.assert_close(found.texts, texts.double())


def test_means_of_unit_embeddings_are_not_normalised_again(folder):
    Image.new("RGB", (8, 8), (0, 0, 255)).save(folder / "frog" / "3.png")
    found = embed_image_folder(ColorEncoder(), folder)
    assert found.image_means[0].norm() < 0.95 < found.image_means[1].norm()


def test_a_class_that_looks_like_another_is_left_out(folder):
    (folder / "tree frog").mkdir()
    Image.new("RGB", (16, 16), (0, 255, 0)).save(folder / "tree frog" / "0.png")
    with pytest.warns(UserWarning, match="left out tree frog: .* 1 of 4 classes"):
        found = embed_image_folder(ColorEncoder(), folder)
    assert found.labels == ("frog", "red panda", "sea") and len(found.texts) == 3
    assert torch.isfinite(misalignment(found.image_means, found.texts).M).all()


def test_two_classes_with_one_text_are_named_before_images_are_embedded(folder):
    class Lower(ColorEncoder):
        def embed_text(self, texts):
            return super().embed_text([text.lower() for text in texts])

        def embed_pixels(self, pixels):
            raise AssertionError("embeds images")

    (folder / "Frog").mkdir()
    Image.new("RGB", (8, 8), (9, 9, 0)).save(folder / "Frog" / "0.png")
    with pytest.raises(AirlibError, match="the same text for the classes 'Frog' and 'frog'"):
        embed_image_folder(Lower(), folder)


def test_photos_are_turned_upright(tmp_path):
    class TopHalf(ColorEncoder):
        def embed_pixels(self, pixels):
            return super().embed_pixels(pixels[:, :, :4])

    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4, :, 0], pixels[4:, :, 2] = 255, 255  # upright: red above blue
    exif = Image.Exif()
    exif[0x0112] = 3  # stored upside down
    for i, name in enumerate("abc"):
        (tmp_path / name).mkdir()
        pixels[:4, :, 1] = 40 * i  # or the classes would look alike
        Image.fromarray(pixels[::-1].copy()).save(tmp_path / name / "x.png", exif=exif)
    found = embed_image_folder(TopHalf(), tmp_path)
    red, _, blue = found.image_means[0].tolist()
    assert red > 2 * blue


def test_folders_that_cannot_be_studied_say_why(folder, tmp_path_factory):
    encoder = ColorEncoder()
    with pytest.raises(AirlibError, match="no such folder"):
        embed_image_folder(encoder, folder / "missing")
    with pytest.raises(AirlibError, match="at least 3"):
        embed_image_folder(encoder, tmp_path_factory.mktemp("empty"))
    with pytest.raises(AirlibError, match="template"):
        embed_image_folder(encoder, folder, template="a photo")
    (folder / "void").mkdir()
    with pytest.raises(AirlibError, match="void holds no images"):
        embed_image_folder(encoder, folder)
    whole = (folder / "frog" / "0.png").read_bytes()
    for damaged in (b"not a picture", whole[: len(whole) // 2], b""):
        (folder / "void" / "broken.png").write_bytes(damaged)
        with pytest.raises(AirlibError, match="void/broken.png"):
            embed_image_folder(encoder, folder)


def test_the_parts_of_an_offset_give_back_misalignment_and_length():
    images, texts = normal(12, 8), normal(12, 8, seed=1)
    split = split_offsets(images, texts)
    length = (split.along.square() + split.across.square()).sqrt()
    torch.testing.assert_close(1 - split.along / length, misalignment(images, texts).all_pairs()[0])
    torch.testing.assert_close(length[0], (images[1] - images[0]).norm())
    torch.testing.assert_close(split.text_length[0], (texts[1] - texts[0]).norm())


def test_an_offset_along_its_text_has_nothing_across():
    texts = normal(5, 4)
    split = split_offsets(3 * texts + 1, texts)
    torch.testing.assert_close(split.along, 3 * split.text_length)
    assert split.across.max() < 1e-5


@pytest.mark.parametrize(("residual", "verdict"), [(0.0, "falls"), (2.0, "rises")])
def test_explains_whether_the_error_keeps_up_with_the_offset(residual, verdict):
    length = torch.linspace(1, 2, 50)
    across = 0.1 + 0.1 * length**residual  # of constant size, or growing with the square
    split = OffsetSplit(length, length, across - 0.1 if residual else across)
    assert f"misalignment {verdict}" in split.explain()


def test_binned_means_are_of_equal_groups_in_the_order_of_x():
    x, y = binned_means(torch.tensor([3.0, 1.0, 2.0, 4.0]), torch.tensor([30.0, 10, 20, 50]), 2)
    assert x.tolist() == [1.5, 3.5] and y.tolist() == [15, 40]


def test_subset_keeps_rows_and_labels_together():
    full = concepts(normal(4, 3), normal(4, 3, seed=1))
    part = subset(full, lambda label: label in ("c1", "c3"))
    assert part.labels == ("c1", "c3")
    assert torch.equal(part.image_means, full.image_means[[1, 3]])
    assert torch.equal(part.texts, full.texts[[1, 3]])
