"""The loop: repeatable, resumable at any moment, guarded, and its result travels in one file.

Run as a program (`python test_adaptation.py DIRECTORY`), this file kills AIR runs and resumes them.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from small_networks import assert_continues, small_generator, small_space, small_unet

from airlib.adaptation import Adaptation, AdaptationConfig, adapt, log_file, read_log
from airlib.errors import AirlibError
from airlib.files import load_tensors, save_tensors
from airlib.generators.diffusion import DiffusionGenerator
from airlib.generators.identity import fingerprint
from airlib.methods.air import AIR, AIRConfig
from airlib.methods.nada import NADA
from airlib.methods.step import Step
from airlib.parameterizations.base import Parameterization
from airlib.parameterizations.stylegan2 import affine, synthesis
from airlib.seeding import rng
from airlib.training.guard import PATIENCE, Guard

SOURCE, SPACE = small_generator(), small_space()
CONFIG = AdaptationConfig(steps=8, learning_rate=0.01, checkpoint_every=1)
KILLS = 10


def run_air(config: AdaptationConfig = CONFIG, **options) -> Adaptation:
    """AIR with an anchor every fourth of the run, on the small networks above."""
    numbers = AIRConfig(0.5, 0.25, prompt_pairs=12, prompt_steps=3)
    objective = AIR(SPACE, "human", "dog", numbers, seed=config.seed)
    return adapt(SOURCE, SPACE, objective, synthesis(), config, **options)


def run_nada(config: AdaptationConfig = CONFIG, **options) -> Adaptation:
    return adapt(SOURCE, SPACE, NADA(SPACE, "human", "dog"), synthesis(), config, **options)


def same(first: Adaptation, second: Adaptation) -> bool:
    """Equal in every bit of every tensor, in log and in configuration."""
    tensors = first.tensors.keys() == second.tensors.keys() and all(
        torch.equal(value, second.tensors[name]) for name, value in first.tensors.items()
    )
    return tensors and first.log == second.log and first.config == second.config


# --- repeatable ----------------------------------------------------------------------------------


@pytest.mark.slow  # adapts
def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    first, again = run_air(), run_air()
    other = run_air(AdaptationConfig(steps=8, learning_rate=0.01, checkpoint_every=1, seed=1))
    assert same(first, again)
    assert not any(torch.equal(v, other.tensors[k]) for k, v in first.tensors.items())


def test_the_global_random_state_plays_no_part():
    torch.manual_seed(1)
    first = run_air()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert same(first, run_air())
    assert torch.equal(state, torch.get_rng_state())


def test_the_source_is_left_alone():
    before = {name: value.clone() for name, value in SOURCE.state_dict().items()}
    result = run_air()
    assert all(torch.equal(value, before[name]) for name, value in SOURCE.state_dict().items())
    assert not any(p.requires_grad for p in SOURCE.parameters())
    assert not any(torch.equal(value, before[name]) for name, value in result.tensors.items())


def test_on_step_sees_every_state_from_the_source_to_the_result():
    seen: list[tuple[int, torch.Tensor]] = []
    result = run_nada(
        on_step=lambda index, net: seen.append((index, net.synthesis.b4.const.detach().clone()))
    )
    assert [index for index, _ in seen] == list(range(9))
    assert torch.equal(seen[0][1], SOURCE.synthesis.b4.const)
    assert torch.equal(seen[-1][1], result.tensors["synthesis.b4.const"])
    assert [entry["step"] for entry in result.log] == list(range(8))


def test_weights_of_the_terms_scale_the_gradient():
    """With Adam a single term's weight cancels, so two opposed terms compete."""

    class Tug(NADA):
        def __call__(self, step: Step) -> dict[str, torch.Tensor]:
            direction = super().__call__(step)["direction"]
            return {"direction": direction, "back": -direction}

    def const(weights: dict[str, float]) -> torch.Tensor:
        config = AdaptationConfig(steps=1, learning_rate=0.01, weights=weights)
        result = adapt(SOURCE, SPACE, Tug(SPACE, "human", "dog"), synthesis(), config)
        return result.tensors["synthesis.b4.const"] - SOURCE.synthesis.b4.const

    assert torch.equal(const({}), torch.zeros_like(const({})))
    forward, back = const({"direction": 3.0}), const({"back": 3.0})
    torch.testing.assert_close(forward, -back)
    assert forward.abs().max() > 0.005


def test_weights_of_unknown_terms_are_named_and_the_result_is_kept():
    config = AdaptationConfig(steps=1, learning_rate=0.01, weights={"direction": 1, "adaptiv": 0})
    with pytest.warns(UserWarning, match=r"did not have: \['adaptiv'\]"):
        result = run_nada(config)
    assert result.tensors.keys() == run_nada(CONFIG).tensors.keys()


@pytest.mark.parametrize(
    ("noise", "equal"), [("shared", True), ("independent", False), ("none", True)]
)
def test_noise_of_source_and_adapted_images(noise, equal):
    step = Step(0, 1, 0, SOURCE, SOURCE, SPACE, SOURCE.sample_latents(2, rng(0)), 0, noise)
    assert torch.equal(step.source_images, step.adapted_images) == equal
    without = SOURCE(step.latents, None)
    assert torch.equal(step.source_images, without) == (noise == "none")


def test_random_views_average_nothing_away():
    """views = 3 embeds three views of each of two images."""
    latents = SOURCE.sample_latents(2, rng(0))
    step = Step(0, 1, 0, SOURCE, SOURCE, SPACE, latents, 3, "shared")
    (embeddings,) = step.source_embeddings
    assert embeddings.shape == (6, 32)
    assert len({tuple(row.tolist()) for row in embeddings}) == 6


# --- mixed latents -------------------------------------------------------------------------------


def steps_of(
    mixing: float, steps: int, batch: int = 2, generator: torch.nn.Module = SOURCE
) -> list[Step]:
    """The steps of a run that moves nothing (and, with a batch of 1, draws nothing)."""
    seen: list[Step] = []

    class Watch(NADA):
        def __call__(self, step: Step) -> dict[str, torch.Tensor]:
            seen.append(step)
            return {"nothing": 0 * step.adapted.synthesis.b4.const.sum()}

    config = AdaptationConfig(steps=steps, batch=batch, mixing=mixing)
    adapt(generator, SPACE, Watch(SPACE, "human", "dog"), synthesis(), config)
    return seen


def crossover(mixed: torch.Tensor, plain: torch.Tensor) -> int:
    """How many entries of w+ are those of `plain`, the first ones, in all images of the batch;
    the others are one w per image.
    """
    layers = int((mixed == plain).all(dim=2).all(dim=0).sum())
    assert torch.equal(mixed[:, :layers], plain[:, :layers])
    assert not (mixed[:, layers:] == plain[:, layers:]).any()
    assert torch.equal(mixed[:, layers:], mixed[:, -1:].expand_as(mixed[:, layers:]))
    return layers


def test_mixing_composes_two_latents_at_one_layer_which_may_be_any():
    plain, mixed = steps_of(0.0, 30), steps_of(1.0, 30)
    layers = [crossover(b.latents, a.latents) for a, b in zip(plain, mixed, strict=True)]
    assert set(layers) == set(range(1, SOURCE.num_ws))
    assert all(torch.equal(s.latents, s.latents[:, :1].expand_as(s.latents)) for s in plain)


def test_mixing_is_a_probability():
    plain, mixed = steps_of(0.0, 100, batch=1), steps_of(0.3, 100, batch=1)
    share = sum(not torch.equal(a.latents, b.latents) for a, b in zip(plain, mixed, strict=True))
    assert 15 < share < 45  # three deviations of a binomial


def test_source_anchor_and_adapted_are_of_the_same_mixed_latents():
    for step in steps_of(1.0, 3):
        assert torch.equal(step.source_images, step.adapted_images)
        anchor = step.embeddings_of(SOURCE.copy_frozen(), "anchor")
        assert torch.equal(anchor[0], step.source_embeddings[0])


def test_without_mixing_results_are_those_of_a_loop_that_cannot_mix():
    """Their headers too, or checkpoints and results of earlier versions would count as others."""
    result = run_nada()
    assert "mixing" not in result.config["adaptation"]
    mixed = AdaptationConfig(steps=8, learning_rate=0.01, checkpoint_every=1, mixing=1.0)
    other = run_nada(mixed)
    assert other.config["adaptation"] == {**result.config["adaptation"], "mixing": 1.0}
    assert not any(torch.equal(value, other.tensors[k]) for k, value in result.tensors.items())


def test_a_mixing_run_continues_bit_for_bit(tmp_path):
    config = AdaptationConfig(steps=6, learning_rate=0.01, checkpoint_every=1, mixing=0.5)
    assert_continues(lambda **options: run_air(config, **options), tmp_path, last=4)


@pytest.mark.parametrize(
    "generator", [DiffusionGenerator(small_unet(), steps=2), SOURCE.with_mapping()]
)
def test_a_generator_without_w_plus_does_not_mix(generator):
    with pytest.raises(AirlibError, match=r"entries of w\+, which this generator does not have"):
        steps_of(0.1, 1, generator=generator)


# --- resumable -----------------------------------------------------------------------------------


class Stopped(Exception):
    pass


def stop_at(steps: int):
    def stop(index: int, _: torch.nn.Module) -> None:
        if index == steps:
            raise Stopped

    return stop


@pytest.mark.slow  # runs again and again
@pytest.mark.parametrize("every", [1, 3])
def test_a_run_stopped_before_any_step_continues_bit_for_bit(tmp_path, every):
    config = AdaptationConfig(steps=8, learning_rate=0.01, checkpoint_every=every)
    whole = run_air(config)
    for steps in range(8):
        directory = tmp_path / str(steps)
        with pytest.raises(Stopped):
            run_air(config, directory=directory, on_step=stop_at(steps))
        assert same(whole, run_air(config, directory=directory))


def test_a_finished_run_is_read_not_repeated(tmp_path):
    first = run_air(directory=tmp_path)
    forbidden = stop_at(0)
    assert same(first, run_air(directory=tmp_path, on_step=forbidden))


def test_labels_of_any_json_kind_can_be_resumed(tmp_path):
    labels = {"pair": ("human", "dog"), "numbers": {1: (0.0, 0.99)}}
    with pytest.raises(Stopped):
        run_nada(directory=tmp_path, labels=labels, on_step=stop_at(3))
    run_nada(directory=tmp_path, labels=labels)


@pytest.mark.slow  # runs and is killed again and again
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_runs_killed_at_random_moments_end_with_the_same_bits(tmp_path):
    """SIGKILL, ten times; the runs live in forks of one program that has imported torch already."""
    import subprocess

    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([p for p in sys.path if p])
    subprocess.run([sys.executable, __file__, str(tmp_path)], env=environment, check=True)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["kills"] == KILLS and report["damaged"] == []
    assert report["progress_at_kill"] and len(set(report["progress_at_kill"])) > 2
    whole = (tmp_path / "whole" / "result.safetensors").read_bytes()
    assert len(whole) > 10_000
    for i in range(report["runs"]):
        assert (tmp_path / str(i) / "result.safetensors").read_bytes() == whole
        log = (tmp_path / str(i) / "result.safetensors.jsonl").read_bytes()
        assert log == (tmp_path / "whole" / "result.safetensors.jsonl").read_bytes()


def kill_and_resume(root: Path) -> None:
    """Ten times: start a run, kill it at a random moment, resume it; write what happened."""
    torch.set_num_threads(1)
    report = {"kills": 0, "runs": 0, "progress_at_kill": [], "damaged": []}
    started = time.perf_counter()
    _wait(_start(root / "whole"))
    duration = time.perf_counter() - started
    moments = random.Random(0)
    while report["kills"] < KILLS and report["runs"] < 3 * KILLS:
        directory = root / str(report["runs"])
        child = _start(directory)
        time.sleep(moments.uniform(0.02, 0.9) * duration)
        os.kill(child, signal.SIGKILL)
        if os.WIFSIGNALED(_wait(child)):
            report["kills"] += 1
            report["progress_at_kill"].append(_progress(directory))
        if _wait(_start(directory)) != 0:
            report["damaged"].append(report["runs"])
        report["runs"] += 1
    (root / "report.json").write_text(json.dumps(report))


def _start(directory: Path) -> int:
    """Process id of a fork that runs AIR in `directory` and leaves result.safetensors there."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        run_air(directory=directory).save(directory / "result.safetensors")
        status = 0
    finally:
        os._exit(status)


def _wait(child: int) -> int:
    return os.waitpid(child, 0)[1]


def _progress(directory: Path) -> int:
    checkpoint = directory / "checkpoint.safetensors"
    return load_tensors(checkpoint)[1]["done"] if checkpoint.exists() else 0


# --- refused -------------------------------------------------------------------------------------


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    run_nada(directory=tmp_path)
    other = AdaptationConfig(steps=8, learning_rate=0.02, checkpoint_every=1)
    objective = NADA(SPACE, "human", "dog")
    for attempt in (
        lambda: run_nada(other, directory=tmp_path),
        lambda: run_nada(directory=tmp_path, labels={"pair": "human-dog"}),
        lambda: adapt(SOURCE, SPACE, objective, affine(), CONFIG, tmp_path),
        lambda: adapt(small_generator(1), SPACE, objective, synthesis(), CONFIG, tmp_path),
    ):
        with pytest.raises(AirlibError, match="other settings"):
            attempt()
    run_nada(directory=tmp_path)  # and the settings it was made with are not


def test_a_checkpoint_of_another_objective_is_refused(tmp_path):
    run_nada(directory=tmp_path)
    with pytest.raises(AirlibError, match="other settings"):
        run_air(directory=tmp_path)
    objective = NADA(SPACE, "human", "cat")
    with pytest.raises(AirlibError, match="other settings"):
        adapt(SOURCE, SPACE, objective, synthesis(), CONFIG, tmp_path)


def test_a_corrupt_checkpoint_is_refused(tmp_path):
    run_nada(directory=tmp_path)
    checkpoint = tmp_path / "checkpoint.safetensors"
    whole = checkpoint.read_bytes()
    for damaged in (b"", whole[:100], whole[: len(whole) // 2], whole[:-1]):
        checkpoint.write_bytes(damaged)
        with pytest.raises(AirlibError, match="damaged"):
            run_nada(directory=tmp_path)


def test_a_checkpoint_with_missing_or_misshapen_tensors_is_refused(tmp_path):
    run_nada(directory=tmp_path)
    checkpoint = tmp_path / "checkpoint.safetensors"
    tensors, config = load_tensors(checkpoint)
    const = "trained/synthesis.b4.const"
    without = {name: value for name, value in tensors.items() if name != const}
    for changed in (without, tensors | {const: torch.zeros(2)}, {"x": torch.zeros(2)}):
        save_tensors(checkpoint, changed, config)
        with pytest.raises(AirlibError, match="delete it"):
            run_nada(directory=tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0}, {"batch": 0}, {"learning_rate": 0.0}, {"learning_rate": -1.0},
        {"learning_rate": float("nan")}, {"views": -1}, {"noise": "random"},
        {"mixing": -0.1}, {"mixing": 1.5}, {"mixing": float("nan")},
    ],
)  # fmt: skip
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(AirlibError):
        AdaptationConfig(**wrong)


# --- guarded -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [run_nada, run_air])
def test_a_loss_that_is_not_finite_stops_the_run(method):
    config = AdaptationConfig(steps=8, learning_rate=1e30)
    with pytest.raises(AirlibError, match="step 1; lower the learning rate"):
        method(config)


def gains() -> Parameterization:
    """The last colours: a learning rate that is too high drives the pixels out of range."""
    return Parameterization(
        "gains", lambda net: {k: p for k, p in net.named_parameters() if "b16.torgb" in k}
    )


@pytest.mark.parametrize("steps", [1, 8])
@pytest.mark.parametrize("batch", [1, 2])
def test_images_that_leave_the_range_stop_the_run(steps, batch):
    """Also those of the last step, and of a batch of 1, which has no spread."""
    config = AdaptationConfig(steps=steps, batch=batch, learning_rate=1000.0, noise="none")
    with pytest.raises(AirlibError, match="left the range .* lower the learning rate"):
        adapt(SOURCE, SPACE, NADA(SPACE, "human", "dog"), gains(), config)


def test_the_guard_judges_what_is_displayed():
    stream = torch.Generator().manual_seed(0)
    source = 0.5 * torch.randn(4, 3, 8, 8, generator=stream)
    white = 1.2 + 0.1 * torch.rand(4, 3, 8, 8, generator=stream)  # different, but not as displayed
    guard = Guard()
    for step in range(PATIENCE - 1):
        guard.check_images(step, white, source)
    guard.check_images(PATIENCE, source, source)  # it recovered
    for step in range(PATIENCE - 1):
        guard.check_images(step, white, source)
    with pytest.raises(AirlibError, match="same image for every latent since step 0"):
        guard.check_images(PATIENCE - 1, white, source)


@pytest.mark.parametrize("value", [2.0, -8e5, float("inf"), float("nan")])
def test_pixels_out_of_range_count_where_the_source_has_none(value):
    source, far = torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)
    far[:, :, :5] = value  # 62 %
    with pytest.raises(AirlibError, match="62% of the pixels are beyond 1.5"):
        Guard().check_range(3, far, source)
    Guard().check_range(3, far, far)  # the source is no better
    far[:, :, 2:] = 1.4
    Guard().check_range(3, far, source)  # 25 %


class OneColour(NADA):
    """Pulls every image to the same one."""

    def __call__(self, step: Step) -> dict[str, torch.Tensor]:
        return {"variation": step.adapted_images.var(dim=0).mean()}


@pytest.mark.slow  # adapts
def test_a_generator_that_collapses_stops_the_run():
    config = AdaptationConfig(steps=200, batch=4, learning_rate=0.05, betas=(0.9, 0.99))
    colours = Parameterization(
        "colours", lambda net: {k: p for k, p in net.named_parameters() if "torgb.weight" in k}
    )
    losses: list[int] = []
    with pytest.raises(AirlibError, match="same image for every latent since step") as error:
        adapt(
            SOURCE, SPACE, OneColour(SPACE, "human", "dog"), colours, config,
            on_step=lambda index, _: losses.append(index),
        )  # fmt: skip
    first = int(str(error.value).split("since step ")[1].split(";")[0])
    assert losses[-1] == first + PATIENCE - 1 and first > 0


# --- the result in a file ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result() -> Adaptation:
    return run_air(labels={"pair": "human-dog"})


def test_saving_and_loading_keeps_every_bit(result, tmp_path):
    path = result.save(tmp_path / "dog.safetensors")
    loaded = Adaptation.load(path)
    assert same(result, loaded)
    latents, noise = SOURCE.sample_latents(2, rng(0)), SOURCE.sample_noise(2, rng(1))
    images = [a.apply(SOURCE)(latents, noise) for a in (result, loaded)]
    assert torch.equal(*images) and not torch.equal(images[0], SOURCE(latents, noise))
    log_file(path).unlink()
    assert Adaptation.load(path).log == []


def test_the_result_holds_what_the_loop_trained(result):
    states: list[dict] = []
    run_air(
        labels={"pair": "human-dog"},
        on_step=lambda _, net: states.append({k: v.clone() for k, v in net.state_dict().items()}),
    )
    applied = result.apply(SOURCE).state_dict()
    assert all(torch.equal(value, applied[name]) for name, value in states[-1].items())


def test_another_source_is_refused(result):
    with pytest.raises(AirlibError, match="another source generator.*human-dog"):
        result.apply(small_generator(1))


def test_a_source_that_is_rounded_otherwise_is_the_same(result, tmp_path):
    """For an adaptation, and for a run that is continued on another processor."""
    near, far = SOURCE.copy_frozen(), SOURCE.copy_frozen()
    for copy, size in ((near, 1e-6), (far, 1e-2)):
        for value in copy.state_dict().values():
            value += size
    assert result.apply(near).num_layers == SOURCE.num_layers
    with pytest.raises(AirlibError, match="another source generator"):
        result.apply(far)
    objective = NADA(SPACE, "human", "dog")
    with pytest.raises(Stopped):
        run_nada(directory=tmp_path, on_step=stop_at(3))
    with pytest.raises(AirlibError, match="other settings"):
        adapt(far, SPACE, objective, synthesis(), CONFIG, tmp_path)
    assert len(adapt(near, SPACE, objective, synthesis(), CONFIG, tmp_path).log) == CONFIG.steps


def test_what_earlier_versions_saved_is_read(result, tmp_path):
    """A fingerprint in the place of the identity, and the log beside it without .safetensors."""
    config = {**result.config, "source": fingerprint(SOURCE)}
    path = save_tensors(tmp_path / "dog.safetensors", result.tensors, config)
    (tmp_path / "dog.jsonl").write_text('{"step": 0}\n')
    loaded = Adaptation.load(path)
    assert loaded.log == [{"step": 0}] and loaded.apply(SOURCE).num_layers == SOURCE.num_layers
    with pytest.raises(AirlibError, match="another source generator"):
        loaded.apply(small_generator(1))
    result.save(path)
    assert Adaptation.load(path).log == result.log

    run_nada(directory=tmp_path)
    tensors, config = load_tensors(tmp_path / "checkpoint.safetensors")
    config["source"] = fingerprint(SOURCE)
    save_tensors(tmp_path / "checkpoint.safetensors", tensors, config)
    assert len(run_nada(directory=tmp_path, on_step=stop_at(0)).log) == CONFIG.steps


@pytest.mark.parametrize(
    "names", [("lr0.001", "lr0.002"), ("sketch.v1", "sketch.v2"), ("a", "a.b")]
)
def test_names_with_dots_keep_their_own_files(names, tmp_path):
    for name in names:
        made = Adaptation({"x": torch.zeros(1)}, {"source": "s"}, [{"name": name}])
        assert made.save(tmp_path / name) == tmp_path / f"{name}.safetensors"
    for name in names:
        for path in (tmp_path / name, tmp_path / f"{name}.safetensors"):
            assert Adaptation.load(path).log == [{"name": name}]


def test_altered_tensors_are_refused(result):
    name, value = next(iter(result.tensors.items()))
    for tensors in ({name: value[:1]}, {"elsewhere": value}):
        with pytest.raises(AirlibError, match="make it again"):
            Adaptation(tensors, result.config).apply(SOURCE)


def test_other_files_are_refused(result, tmp_path):
    weights = save_tensors(tmp_path / "weights.safetensors", SOURCE.state_dict(), {"resolution": 8})
    with pytest.raises(AirlibError, match="no adaptation"):
        Adaptation.load(weights)
    path = result.save(tmp_path / "dog.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(AirlibError, match="damaged"):
        Adaptation.load(path)


@pytest.mark.parametrize("key", ["parameterization", "labels", "adaptation"])
@pytest.mark.parametrize("value", [None, 3, ["a"]])
def test_a_header_of_other_types_is_refused(result, tmp_path, key, value):
    path = save_tensors(tmp_path / "a.safetensors", result.tensors, result.config | {key: value})
    with pytest.raises(AirlibError, match=rf"damaged \({key} is no .*\); make it again"):
        Adaptation.load(path)


@pytest.mark.parametrize("text", ["[", "3", "{}\n[]", "[" * 100_000, '{"a": NaN}'])
def test_a_damaged_log_is_refused(tmp_path, text):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(AirlibError, match="no log of an adaptation") as caught:
        read_log(tmp_path / "a.safetensors")
    assert str(caught.value).endswith("; delete it, or make the adaptation again")


def test_files_name_no_machine(result, tmp_path):
    """Headers and log hold no absolute path, user, host or device."""
    run_air(directory=tmp_path / "run")
    path = result.save(tmp_path / "dog.safetensors")
    texts = [json.dumps(load_tensors(p)[1]) for p in (path, *(tmp_path / "run").iterdir())]
    texts.append(log_file(path).read_text())
    host = os.uname().nodename if hasattr(os, "uname") else "localhost"
    for text in texts:
        for secret in (str(tmp_path), str(Path.home()) + os.sep, os.getcwd(), host, "cpu", "cuda"):
            assert secret not in text


if __name__ == "__main__":
    kill_and_resume(Path(sys.argv[1]))
