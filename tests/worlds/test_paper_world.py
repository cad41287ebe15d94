"""The paper world: real code paths with random weights, and clear words where files are missing."""

import pytest
import torch
from PIL import Image

from airlib.errors import AirlibError
from airlib.experiments.sweep import sweep
from airlib.profiles import load_profile
from airlib.worlds import open_space, open_world, paper

pytestmark = pytest.mark.slow  # opens networks of full size

SMALL = {"sources.ffhq.resolution": 64}  # otherwise the dry run of a published generator


@pytest.fixture(autouse=True)
def assets(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRLIB_ASSETS", str(tmp_path / "assets"))
    return tmp_path / "assets"


@pytest.fixture(scope="module")
def world():
    return open_world(load_profile("paper", SMALL, dry_run=True))


def test_a_dry_run_adapts_and_scores_without_a_download(world, assets):
    adaptation = world.adapt("air", "human-baby")
    losses = [entry for entry in adaptation.log if "event" not in entry]
    assert [set(entry) - {"step"} for entry in losses] == [{"direction"}, {"direction", "adaptive"}]
    adapted = adaptation.apply(world.generator)
    metrics = world.score(world.batches(adapted, 4), "human-baby", "air", 0)
    names = ["frechet", "diversity", "clip_distance", "clip_gap"]
    assert [metric.name for metric in metrics] == names
    assert all("random weights" in metric.protocol for metric in metrics[:3])
    assert metrics[0].protocol.startswith("fd4_inception")  # random weights measure no FID
    assert not assets.exists()


def test_a_dry_run_has_the_real_size():
    numbers = load_profile("paper", dry_run=True)
    with torch.device("meta"):
        generator = paper._generator("ffhq", numbers)
    size = sum(p.numel() for p in generator.parameters())
    assert (generator.resolution, size) == (1024, 30_370_060)


def test_random_weights_are_the_same_every_time(world):
    again = open_world(load_profile("paper", SMALL, dry_run=True), "ffhq")
    assert torch.equal(again.draw(again.generator, 2), world.draw(world.generator, 2))


def test_the_clip_models_are_had_without_a_generator(world, monkeypatch):
    monkeypatch.delattr(paper, "_generator")
    space = open_space(load_profile("paper", dry_run=True))
    texts = space.embed_text(["a photo of a dog"])
    assert all(map(torch.equal, texts, world.space.embed_text(["a photo of a dog"])))


def test_a_sweep_of_the_paper_world_has_its_own_reference_rows(tmp_path):
    numbers = load_profile("paper", SMALL, dry_run=True)
    runs = sweep(numbers, ["nada"], ["human-baby"], [0], tmp_path / "runs", 1)
    assert [run.method for run in runs] == ["source", "nada"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: open_world("paper"), "airlib fetch --only clip-vit-b32"),
        (lambda: paper._generator("ffhq", load_profile("paper")), "fetch --only stylegan2-ffhq"),
        (lambda: open_world("paper", "human"), "unknown source 'human'; choose from ffhq, afhqdog"),
        (lambda: paper._encoder("ViT-X", load_profile("paper")), "unknown CLIP 'ViT-X'"),
    ],
)
def test_missing_weights_and_wrong_names_say_what_to_do(call, words):
    with pytest.raises(AirlibError, match=words):
        call()


def test_reference_images_are_read_from_a_folder(tmp_path, assets, world):
    with pytest.raises(AirlibError, match="no reference images of 'ffhq-babies/babies'; put up to"):
        _published(world).reference("human-baby")
    folder = assets / "ffhq-babies" / "babies"
    folder.mkdir(parents=True)
    for i in range(12):  # twice as wide as high: the sides are cut off
        image = Image.new("RGB", (128, 64), (255, 0, 0))
        image.paste((0, 0, 10 * i), (32, 0, 96, 64))
        image.save(folder / f"{i:02d}.png")
    images = torch.cat(list(_published(world).reference_images("human-baby")))
    assert images.shape == (12, 3, 64, 64)
    expected = torch.tensor([[-1.0, -1.0, 20 * i / 255 - 1] for i in range(12)])
    torch.testing.assert_close(images.mean(dim=(2, 3)), expected)
    for path in sorted(folder.iterdir())[5:]:
        path.unlink()
    with pytest.raises(AirlibError, match="holds 5 images; at least 10"):
        list(_published(world).reference_images("human-baby"))


def test_without_the_networks_of_fid_a_set_is_scored_by_clip(assets, world):
    """And a warning says what to fetch; opening the world is no error."""
    folder = assets / "ffhq-babies" / "babies"
    folder.mkdir(parents=True)
    for i in range(10):
        Image.new("RGB", (64, 64), (20 * i, 0, 0)).save(folder / f"{i:02d}.png")
    published = _published(world)
    fetch = "`airlib fetch --only inception-fid`.*`airlib fetch --only vgg16`"
    with pytest.warns(UserWarning, match=fetch):
        reference = published.reference("human-baby")
    batches = world.batches(world.generator, 4)
    names = {metric.name for metric in published.score(batches, "human-baby", "source", 0)}
    assert names == {"clip_distance", "clip_gap"}
    scores = published.evaluate(batches, reference, "human-baby", "source", None, "full")
    assert "--only inception-fid" in scores.omitted["Frechet distance"]
    assert scores.omitted["intra-LPIPS"] == scores.omitted["overlap"] == published.without_judges


def _published(world) -> paper.PaperWorld:
    """The same networks, as if their weights had been fetched; not those of the judge."""
    numbers = load_profile("paper", {**SMALL, "evaluation.references": 20})
    judges = paper.PaperWorld.load_judges(numbers)
    return paper.PaperWorld(numbers, world.source, world.generator, world.space, *judges)
