"""The training loop, on a regression with two parameters."""

import copy
import json

import pytest
import torch
from torch import nn

from airlib.errors import AirlibError
from airlib.files import load_tensors, save_tensors
from airlib.studies.train_tiny import make_task
from airlib.training import loop as training
from airlib.training.loop import TrainingRun


class Line:
    """y = 3x - 1 from noisy points; a running average is what is shipped."""

    name = "line"

    def __init__(self, steps: int = 40, stop_at: int | None = None, nan_at: int | None = None):
        self.net = nn.Linear(1, 1)
        nn.init.zeros_(self.net.weight)
        nn.init.zeros_(self.net.bias)
        self.average = copy.deepcopy(self.net)
        self.modules = {"net": self.net, "average": self.average}
        self.optimizer = torch.optim.Adam(self.net.parameters())
        self.steps, self.stop_at, self.nan_at = steps, stop_at, nan_at
        self.rates: list[float] = []

    def learning_rate(self, progress: float) -> float:
        self.rates.append(progress)
        return 0.5 * (1 - progress)

    def loss(self, step: int, rng: torch.Generator) -> torch.Tensor:
        if step == self.stop_at:
            raise KeyboardInterrupt
        x = torch.randn(16, 1, generator=rng)
        y = 3 * x - 1 + 0.1 * torch.randn(16, 1, generator=rng)
        loss = (self.net(x) - y).square().mean()
        return loss * float("nan") if step == self.nan_at else loss

    def after_step(self, step: int) -> None:
        for average, new in zip(self.average.parameters(), self.net.parameters(), strict=True):
            average.data.lerp_(new.data, 0.2)

    def evaluate(self) -> dict[str, float]:
        return {"slope_error": abs(self.average.weight.item() - 3)}

    def export(self) -> tuple[dict[str, torch.Tensor], dict]:
        counted = {"count": torch.tensor([7])}
        return {**self.average.state_dict(), **counted}, {"inputs": 1}


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 5)


def test_a_resumed_training_ends_with_the_same_bits(tmp_path):
    whole = TrainingRun(Line(), tmp_path / "whole", seed=0)
    whole.run()
    for stop_at in (3, 13, 22, 39):  # before the first checkpoint, then three times on the way
        stopped = TrainingRun(Line(stop_at=stop_at), tmp_path / "stopped", seed=0)
        stopped.resume()
        with pytest.raises(KeyboardInterrupt):
            stopped.run()
    resumed = TrainingRun(Line(), tmp_path / "stopped", seed=0)
    resumed.resume()
    assert resumed.done == 35
    resumed.run()
    assert resumed.curve == whole.curve and len(whole.curve) == 40
    expected, _ = load_tensors(whole.checkpoint)
    actual, _ = load_tensors(resumed.checkpoint)
    assert expected.keys() == actual.keys() and len(expected) == 4 + 2 * 3
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    assert resumed.task.rates == [step / 40 for step in range(35, 40)]


def test_resuming_a_finished_training_changes_nothing(tmp_path):
    first = TrainingRun(Line(), tmp_path, seed=0)
    first.run()
    before = first.checkpoint.read_bytes()
    again = TrainingRun(Line(stop_at=0), tmp_path, seed=0)
    again.resume()
    again.run()
    assert first.checkpoint.read_bytes() == before
    assert torch.equal(again.task.net.weight, first.task.net.weight)


def test_another_seed_gives_other_bits(tmp_path):
    runs = [TrainingRun(Line(), tmp_path / str(seed), seed) for seed in (0, 1)]
    for run in runs:
        run.run()
    assert runs[0].task.net.weight != runs[1].task.net.weight


@pytest.mark.parametrize(("seed", "steps"), [(1, 40), (0, 41)])
def test_a_checkpoint_of_another_run_is_refused(tmp_path, seed, steps):
    TrainingRun(Line(), tmp_path, seed=0).run()
    other = TrainingRun(Line(steps), tmp_path, seed)
    with pytest.raises(AirlibError, match="another run.*without --resume"):
        other.resume()
    assert other.done == 0 and other.task.net.weight == 0


def test_files_that_are_no_checkpoint_are_refused(tmp_path):
    run = TrainingRun(Line(), tmp_path, seed=0)
    run.run()
    whole = run.checkpoint.read_bytes()
    run.checkpoint.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AirlibError, match="damaged"):
        TrainingRun(Line(), tmp_path, seed=0).resume()
    save_tensors(run.checkpoint, {"weight": torch.ones(1)}, {"inputs": 1})
    with pytest.raises(AirlibError, match="another run"):
        TrainingRun(Line(), tmp_path, seed=0).resume()


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    run = TrainingRun(Line(nan_at=7), tmp_path, seed=0)
    with pytest.raises(AirlibError, match="loss of line is nan at step 7; lower the learning rate"):
        run.run()
    _, config = load_tensors(run.checkpoint)
    assert config["done"] == 5  # the last good state


def test_the_record_says_how_the_weights_were_made(tmp_path):
    run = TrainingRun(Line(), tmp_path / "run", seed=3)
    run.run()
    record = run.publish(tmp_path / "weights")
    path = tmp_path / "weights" / "line.safetensors"
    assert json.loads((tmp_path / "weights" / "line.json").read_text()) == record
    assert record["command"] == "airlib train-tiny line --seed 3 --steps 40"
    assert (record["name"], record["seed"], record["steps"], record["steps_done"]) == (
        ("line", 3, 40, 40)
    )
    assert record["minutes"] >= 0 and record["parameters"] == 3
    assert record["bytes"] == path.stat().st_size
    assert record["metrics"]["slope_error"] < 0.3
    assert record["versions"]["torch"] == torch.__version__
    assert record["curve"] == run.curve and run.curve[0][1] > run.curve[-1][1]
    tensors, config = load_tensors(path)
    assert config == {"inputs": 1} and tensors["count"].dtype == torch.int64
    assert torch.equal(tensors["weight"], run.task.average.weight.detach().half())


def test_only_known_networks_are_trained():
    with pytest.raises(AirlibError, match="choose from clip, judge, judge_vit, stylegan2"):
        make_task("gpt", seed=0, steps=None)
