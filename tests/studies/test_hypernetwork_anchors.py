"""Training a hypernetwork with AIR's anchors: what stays as it was, and exact resumption."""

from pathlib import Path

import pytest
import torch

from airlib.methods.hyper_anchors import HyperAnchors
from airlib.studies.hypernetwork import HypernetworkTask
from airlib.training import loop as training
from airlib.training.loop import TrainingRun
from airlib.worlds import World, open_world

pytestmark = pytest.mark.slow  # trains

STEPS = 5
ANCHORS = HyperAnchors(
    t_thresh=0.4, t_int=0.4, prompt_domains=3, prompt_pairs=2, prompt_steps=2
)  # anchors before steps 2 and 4


@pytest.fixture(scope="module")
def world() -> World:
    return open_world("tiny", "human")


def run_in(directory: Path, task: HypernetworkTask) -> TrainingRun:
    run = TrainingRun(task, directory, 0)
    run.resume()
    return run


@pytest.mark.parametrize("convex", [False, True])
def test_before_the_threshold_it_is_the_training_without_anchors(world, tmp_path, convex):
    """The network after every step and the loss of every step, bit for bit. At step 2 the anchor
    equals the network: no offset, no gradient, and a loss of 1 more.
    """
    states: dict[str, list[torch.Tensor]] = {"plain": [], "anchors": []}
    curves = {}
    for name, anchors in (("plain", None), ("anchors", ANCHORS)):
        task = HypernetworkTask(0, STEPS, world, anchors, batch=3, convex=convex)
        task.after_step = lambda _, name=name, task=task: states[name].append(
            torch.cat([value.flatten() for value in task.network.state_dict().values()])
        )
        run = run_in(tmp_path / name, task)
        run.run()
        curves[name] = run.curve
    same = [torch.equal(a, b) for a, b in zip(states["plain"], states["anchors"], strict=True)]
    assert same == [True, True, True, False, False]
    assert curves["plain"][:2] == curves["anchors"][:2]
    assert curves["anchors"][2][1] == pytest.approx(curves["plain"][2][1] + 1, abs=1e-4)


def test_a_killed_training_ends_with_the_same_bits(world, tmp_path, monkeypatch):
    """Stopped within step 3 of 5, with the anchor of step 2 in use, and resumed."""
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 1)

    def start(directory: str) -> TrainingRun:
        task = HypernetworkTask(0, STEPS, world, ANCHORS, batch=3)
        return run_in(tmp_path / directory, task)

    def stop(step: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    whole, stopped = start("whole"), start("parts")
    whole.run()
    stopped.task.after_step = stop
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    resumed = start("parts")
    assert resumed.done == 3
    resumed.run()
    for name, module in whole.task.modules.items():
        other = resumed.task.modules[name].state_dict()
        assert all(torch.equal(value, other[key]) for key, value in module.state_dict().items())
    assert whole.curve == resumed.curve
