"""Cached embeddings: what they are, when they are reused, and that a killed run leaves the same."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from airlib.clip_space.embedding_cache import embed_classes, encoder_hash, list_hash
from airlib.clip_space.preprocessing import ClipPreprocess
from airlib.errors import AirlibError
from airlib.studies.misalignment.concepts import embed_dataset, embed_image_folder
from airlib.studies.misalignment.datasets.folders import open_image_folder
from airlib.tinyworld.tiny_clip import tiny_encoder

LABELS = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen"]


class Pyramid:
    """A small encoder with weights: mean colours of a 4 x 4 grid, mixed and normalised."""

    device = torch.device("cpu")

    def __init__(self, seed: int = 0, resolution: int = 16, antialias: bool = True):
        torch.manual_seed(seed)
        self.model = torch.nn.Linear(48, 24)
        self.preprocess = ClipPreprocess(resolution, antialias)
        self.images_seen = 0

    def embed_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        self.images_seen += len(pixels)
        grid = torch.nn.functional.adaptive_avg_pool2d(pixels, 4).flatten(1)
        mixed = (grid[:, None] * self.model.weight).sum(2)
        return torch.nn.functional.normalize(mixed, dim=1)

    def embed_text(self, texts: list[str]) -> torch.Tensor:
        return torch.nn.functional.normalize(
            torch.tensor([[len(t), ord(t[-1]), sum(map(ord, t))] for t in texts]) * 1.0
        )


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Eight classes of eight pictures of several sizes; the first has forty, more than a batch."""
    noise = np.random.default_rng(0)
    for label in LABELS:
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(40 if label == "ant" else 8):
            size = (20 + number % 5, 24, 3)
            image = Image.fromarray(noise.integers(0, 256, size, dtype=np.uint8))
            image.save(tmp_path / "photos" / label / f"{number:02}.png")
    return tmp_path / "photos"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def run(photos: Path, cache: Path | None, encoder=None, workers: int = 0) -> dict[str, np.ndarray]:
    classes = open_image_folder(photos).sample(1000)
    encoder = encoder or Pyramid()
    return dict(embed_classes(encoder, "photos", classes, cache, workers))


def files(cache: Path) -> dict[str, bytes]:
    paths = sorted(path for path in cache.rglob("*.npy") if not path.name.startswith("."))
    return {str(path.relative_to(cache)): path.read_bytes() for path in paths}


# --- what is computed


def test_rows_are_the_embeddings_of_the_images_one_by_one(photos):
    encoder = tiny_encoder()
    rows = run(photos, None, encoder)
    assert list(rows) == LABELS
    for number in (0, 31, 32, 39):
        pixels = np.array(Image.open(photos / "ant" / f"{number:02}.png"))
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1
        with torch.no_grad():
            alone = encoder.embed_images(image)[0]
        torch.testing.assert_close(torch.from_numpy(rows["ant"][number]), alone, rtol=0, atol=1e-5)


def test_worker_processes_do_not_change_a_bit(photos, tmp_path):
    run(photos, tmp_path / "here", workers=0)
    run(photos, tmp_path / "there", workers=2)
    assert files(tmp_path / "here") == files(tmp_path / "there")
    assert len(files(tmp_path / "here")) == len(LABELS)


def test_unreadable_images_are_skipped_with_one_warning(photos):
    whole = embed_image_folder(Pyramid(), photos, workers=0)
    classes = open_image_folder(photos).sample(1000)
    for name, data in {"ant/00": b"", "bee/03": b"no image", "bee/07": None}.items():
        path = photos / f"{name}.png"
        data = path.read_bytes()[:-30] if data is None else data
        path.write_bytes(data)
    with pytest.warns(UserWarning, match="skipped 3 of 96 .* the first is ant/00.png") as caught:
        found = embed_image_folder(Pyramid(), photos, workers=0)
    assert len(caught) == 1
    rows = dict(embed_classes(Pyramid(), "photos", classes, None, 0))
    bad = np.isnan(rows["bee"][:, 0])
    assert np.flatnonzero(bad).tolist() == [3, 7]
    means = torch.from_numpy(rows["bee"][~bad]).double().mean(0)
    assert torch.equal(found.image_means[1], means)
    assert torch.equal(found.image_means[2:], whole.image_means[2:])


def test_a_class_without_any_readable_image_is_an_error(photos):
    for path in (photos / "cat").iterdir():
        path.write_bytes(b"")
    with pytest.raises(AirlibError, match="class of cat/00.png"):
        run(photos, None)


@pytest.mark.parametrize("template", ["", "a photo", "{} {}", None, "nada79"])
def test_a_template_without_one_gap_is_refused_before_anything_is_embedded(photos, template):
    encoder = Pyramid()
    with pytest.raises(AirlibError, match="a sentence with one {}"):
        embed_dataset(encoder, open_image_folder(photos), template, workers=0)
    assert encoder.images_seen == 0


def test_a_label_without_a_word_is_refused_before_anything_is_embedded(photos):
    (photos / "cat").rename(photos / " ")
    encoder = Pyramid()
    with pytest.raises(AirlibError, match="a class called ' '; give it a name"):
        embed_dataset(encoder, open_image_folder(photos), workers=0)
    assert encoder.images_seen == 0


# --- what is reused


def test_a_second_run_reads_the_cache(photos, cache):
    first = embed_dataset(Pyramid(), open_image_folder(photos), cache=cache, workers=0)
    encoder = Pyramid()
    again = embed_dataset(encoder, open_image_folder(photos), cache=cache, workers=0)
    assert encoder.images_seen == 0
    assert torch.equal(first.image_means, again.image_means) and first.labels == again.labels
    assert isinstance(run(photos, cache.with_name("own"))["ant"], np.memmap)


def test_only_the_class_that_changed_is_embedded_again(photos, cache):
    run(photos, cache)
    before = files(cache)
    Image.new("RGB", (30, 30)).save(photos / "cat" / "new.png")
    encoder = Pyramid()
    run(photos, cache, encoder)
    assert encoder.images_seen == 9
    after = files(cache)
    assert before.items() < after.items() and len(after) == len(before) + 1


def test_equal_lists_under_two_labels_keep_their_own_rows(photos, cache):
    classes = open_image_folder(photos).sample(1000)
    twice = {"a": classes["ant"], "b": classes["ant"], "c": classes["cat"]}
    rows = dict(embed_classes(Pyramid(), "photos", twice, cache, 0))
    assert np.array_equal(rows["a"], rows["b"]) and not np.array_equal(rows["a"], rows["c"])


def test_hashes_change_with_everything_that_changes_an_embedding(photos):
    encoder = Pyramid()
    assert encoder_hash(encoder) == encoder_hash(Pyramid())
    others = [Pyramid(seed=1), Pyramid(antialias=False)]
    others += [Pyramid(resolution=8)]
    with torch.no_grad():
        others[1].model.bias[3] += 1e-6
    deeper = Pyramid()
    deeper.model = torch.nn.Sequential(deeper.model)
    hashes = [encoder_hash(e) for e in (encoder, *others, deeper)]
    assert len(set(hashes)) == 5

    items = open_image_folder(photos).sample(1000)["ant"]
    path = items[5].path
    seen = [list_hash(items), list_hash(items[1:]), list_hash(items[::-1])]
    os.utime(path, ns=(0, 1))
    seen.append(list_hash(items))
    path.unlink()
    seen.append(list_hash(items))
    assert len(set(seen)) == 5


@pytest.mark.parametrize("damage", ["cut", "empty", "object", "double", "shorter"])
def test_damaged_caches_are_named_and_never_unpickled(photos, cache, damage):
    run(photos, cache)
    path = sorted(cache.rglob("*.npy"))[0]
    if damage in ("cut", "empty"):
        path.write_bytes(path.read_bytes()[: 500 if damage == "cut" else 0])
    else:
        rows = np.load(path)
        rows = {"object": rows.astype(object), "double": rows.astype(float), "shorter": rows[1:]}
        np.save(path, rows[damage])
    with pytest.raises(AirlibError, match=f"{path.name}.*delete"):
        run(photos, cache)


# --- killed runs


class Slow(Pyramid):
    """The same embeddings, but the run lasts long enough to be killed within it."""

    def embed_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        time.sleep(0.02)
        return super().embed_pixels(pixels)


def _job(photos: Path, cache: Path) -> None:
    torch.set_num_threads(1)
    run(photos, cache, Slow(), workers=2)


@pytest.mark.slow  # runs and is killed again and again
def test_killed_at_random_points_and_restarted_gives_the_same_bytes(photos, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(photos, whole)
    chance = np.random.default_rng(time.time_ns())
    partial_states = 0
    # A kill before the first file, then ones at random moments after every second file or so.
    for at_least in (0, 1, 3, 5):
        process = multiprocessing.get_context("fork").Process(target=_job, args=(photos, killed))
        before = times(killed)
        process.start()
        while process.is_alive() and len(times(killed)) < at_least:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.04))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        after = times(killed)
        assert before.items() <= after.items()  # what was there has not been written again
        partial_states += 0 < len(after) < len(LABELS)
        assert files(killed).items() <= files(whole).items()  # nothing is half written
    assert partial_states > 0
    run(photos, killed)
    assert files(killed) == files(whole)


def times(cache: Path) -> dict[str, int]:
    return {name: (cache / name).stat().st_mtime_ns for name in files(cache)}
