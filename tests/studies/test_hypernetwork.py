"""Training a hypernetwork: its lists, that it learns, resumes, and predicts a saveable domain."""

import pytest
import torch

from airlib.errors import AirlibError
from airlib.experiments.plan import read_plan
from airlib.experiments.runs import SHIPPED_HYPERNETWORK, load_runs
from airlib.files import save_tensors
from airlib.profiles import load_profile, pairs_of_role
from airlib.results import Metric
from airlib.studies.hypernetwork import (
    HypernetworkTask,
    ablation_of,
    domains_in_words,
    half_way,
    load_hypernetwork,
    nearest_seen,
    predicted,
    seen_domains,
)
from airlib.tinyworld.captions import description
from airlib.tinyworld.domains import Domain
from airlib.tinyworld.held_out import HELD_OUT
from airlib.training import loop as training
from airlib.training.loop import TrainingRun
from airlib.worlds import open_world

pytestmark = pytest.mark.slow  # trains


@pytest.fixture(scope="module")
def world():
    return open_world("tiny", "human")


def test_the_shipped_trainings_are_those_of_the_plan():
    known = load_runs(SHIPPED_HYPERNETWORK)
    rows = ablation_of(known)
    assert [row["trained with"] for row in rows] == list(read_plan("hypernetwork").grids_of_runs())
    assert len(rows) == len(known)
    assert all(0 < row["hypernetwork_seen_left"] < 1 for row in rows)


def test_unseen_domains_are_in_no_list_and_all_are_pairs():
    profile = load_profile("tiny")
    pairs = [profile.pairs[name] for name in pairs_of_role(profile, "unseen")]
    assert [pair.target for pair in pairs] == [str(domain) for domain in HELD_OUT]
    for pair in pairs:
        assert pair.target_class == description(Domain.parse(pair.target))
        assert pair.source_class == description(Domain(pair.source))
    words = dict(map(reversed, domains_in_words("world")))
    assert len(words) == len(seen_domains()) == 114 - 12 - 1
    assert not words.keys() & {pair.target_class for pair in pairs}


def test_lists_of_the_paper():
    assert len(set(domains_in_words("paper20"))) == 20
    assert not set(domains_in_words("paper20")) & set(domains_in_words("paper_unseen"))
    with pytest.raises(AirlibError, match="choose from world, paper20"):
        domains_in_words("paper21")


def test_descriptions_are_all_different():
    texts = [description(domain) for domain in (*seen_domains(), *HELD_OUT, Domain("human"))]
    assert len(set(texts)) == 114


def test_a_few_steps_reduce_the_loss_and_resume_exactly(world, tmp_path, monkeypatch):
    """Stopped within the third of four steps and resumed, it ends with the same bits."""
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 1)

    def start(directory: str) -> TrainingRun:
        run = TrainingRun(HypernetworkTask(0, 4, world, batch=4), tmp_path / directory, 0)
        run.resume()
        return run

    def stop(step: int) -> None:
        if step == 2:
            raise KeyboardInterrupt

    whole, stopped = start("whole"), start("parts")
    whole.run()
    stopped.task.after_step = stop
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    resumed = start("parts")
    assert resumed.done == 2
    resumed.run()
    other = resumed.task.network.state_dict()
    for name, value in whole.task.network.state_dict().items():
        assert torch.equal(value, other[name])
    assert whole.curve[-1][1] < whole.curve[0][1]


def test_unknown_numbers_are_refused(world):
    with pytest.raises(AirlibError, match="no number called 'depth'"):
        HypernetworkTask(0, 4, world, depth=3)


def test_the_shipped_network_moves_towards_domains_it_never_saw(world):
    network = load_hypernetwork()
    pair = "unseen-fox-sketch"
    images = predicted(world, network, world.pair(pair).target_class).apply(world.generator)
    w, truth = world.sample(8), world.truth(pair, world.z(8))
    judge = world.judges[0]
    far = (judge.features(world.generator(w)) - judge.features(truth)).norm(dim=1).mean()
    near = (judge.features(images(w)) - judge.features(truth)).norm(dim=1).mean()
    assert near < 0.8 * far


def test_the_nearest_seen_domain_of_a_seen_text_is_itself(world):
    domain = seen_domains()[7]
    found, cosine = nearest_seen(world, description(domain))
    assert found == domain and cosine == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("value", "passed"), [(7.0, True), (7.1, False)])
def test_half_way_by_hand(value, passed):
    """From 10 to 4 the half-way is 7."""
    values = {"source": [10.0], "d": [3.0, 5.0], "network": [value], "nearest": [8.0]}
    metrics = [
        Metric("paired_feature", v, 200, None, "p", "unseen-x", method, seed)
        for method, row in values.items()
        for seed, v in enumerate(row)
    ]
    (row,) = half_way(metrics)
    assert row["half-way"] is passed


def test_a_file_without_a_hypernetwork_is_refused(tmp_path, world):
    tensors = dict(world.generator.state_dict())
    file = save_tensors(tmp_path / "x.safetensors", tensors, {"resolution": 64})
    with pytest.raises(AirlibError, match="train-tiny hypernetwork"):
        load_hypernetwork(file)
