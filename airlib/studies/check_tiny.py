"""Measure again what the records of the shipped weights claim.

    check_tiny(quick=False)         # {"clip_zero_shot_species": 0.9, ...}

Each `weights/NAME.json` says how good its network was when its training ended. Here the *shipped*
half-precision weights are measured by the very functions that the trainings used, on the same
held-out portraits. `TOLERANCE` says how far a value may be off.
"""

from pathlib import Path

import torch
from torch import Tensor

from airlib.documents import read_json
from airlib.errors import AirlibError
from airlib.evaluation.frechet import frechet_distance
from airlib.generators.stylegan2 import StyleGAN2
from airlib.profiles import load_profile, pairs_of_role
from airlib.progress import track
from airlib.seeding import rng
from airlib.studies import hypernetwork
from airlib.tinyworld.attributes import LATENT_DIM
from airlib.tinyworld.domains import Domain
from airlib.tinyworld.exam import examine
from airlib.tinyworld.inversion_encoder import load_encoder
from airlib.tinyworld.judge import NETWORKS as JUDGE_NETWORKS
from airlib.tinyworld.judge import ConvJudge, VitJudge, load_judge
from airlib.tinyworld.pool import load_pool
from airlib.tinyworld.renderer import render
from airlib.tinyworld.shipped import WEIGHTS
from airlib.tinyworld.tiny_clip import tiny_encoder
from airlib.tinyworld.train_clip import zero_shot_accuracies
from airlib.tinyworld.train_diffusion import (
    DiffusionTask,
    frechet_ratios,
    held_out_error,
    world_diffusion,
)
from airlib.tinyworld.train_generator import (
    GeneratorTask,
    NarrowGeneratorTask,
    condition,
    fidelity,
)
from airlib.tinyworld.train_inversion_encoder import EncoderTask, quality
from airlib.tinyworld.train_judge import accuracies
from airlib.worlds import open_world
from airlib.worlds.tiny import GAP_SAMPLES, SOURCES, TinyWorld, world_generator

JUDGES = tuple(JUDGE_NETWORKS)
NARROW = NarrowGeneratorTask.name
NETWORKS = (
    "clip", *JUDGES, GeneratorTask.name, NARROW, DiffusionTask.name, hypernetwork.NAME,
    EncoderTask.name,
)  # fmt: skip
SECOND_SEEDS = ("clip", NARROW)  # trained again with seed 1, for the spread; NAME-1.json is kept

TOLERANCE = 0.03
"""Largest accepted difference between a record and its check. Data and code are the same, so only
rounding differs: half precision, and other processors. Accuracies and exams count cases, and a
rounding may tip those that were nearly undecided: up to 30 of 1,000 portraits, or 23 of the 798
orderings behind a link of a judge's exam (3 of 114 for "collapse"). A network that is not the
recorded one misses by more."""
WORST_DOMAIN_TOLERANCE = 0.1  # the worst domain's 22 orderings: two may tip

SAMPLES = 500  # generated portraits in a Frechet distance


def load_record(name: str, directory: str | Path = WEIGHTS) -> dict:
    """The training record `directory/NAME.json` of a shipped network: command, seed, minutes,
    curve of the loss, metrics and more.

    Raises AirlibError if the file is missing or damaged.
    """
    path = Path(directory) / f"{name}.json"
    record = read_json(path, advice := f"run `airlib train-tiny {name}`")
    if not isinstance(record, dict) or not {"seed", "metrics", "curve", "command"} <= record.keys():
        raise AirlibError(f"{path} is not a training record; {advice}")
    return record


def check_tiny(quick: bool = False) -> dict[str, float]:
    """Measure the shipped weights again and compare with their training records: {metric: value}.

    The result also holds what involves several networks and is in no record:
    `stylegan2_human_fd_ratio`, for the second judge `..._vit` (see `frechet_ratio`), and
    `clip_truth_gap` (see `mean_truth_gap`). quick: leave out the judges' exam, the samples of the
    diffusion model and the truth gap, which take longer than everything else.
    Raises AirlibError, naming every value that is off by more than `TOLERANCE` or was not measured.
    """
    records = {name: load_record(name) for name in NETWORKS}
    claimed = {key: value for r in records.values() for key, value in r["metrics"].items()}
    measured = measure({name: record["seed"] for name, record in records.items()}, quick)
    if quick:
        claimed = {key: value for key, value in claimed.items() if not _takes_long(key)}
    compare(claimed, measured)
    return {key: round(value, 4) for key, value in measured.items()}


def measure(seeds: dict[str, int], quick: bool) -> dict[str, float]:
    """{metric: value} of the shipped weights, as in their training records.

    seeds: network -> seed of its training, which the held-out portraits depend on. quick: see
    `check_tiny`.
    """
    generator, judges = world_generator(), {name: load_judge(name) for name in JUDGES}
    pool = load_pool(1000, seeds["clip"], "test")
    measured = zero_shot_accuracies(tiny_encoder(), pool) | fidelity(generator)
    narrow = world_generator(WEIGHTS / f"{NARROW}.safetensors")
    measured |= fidelity(narrow, [NarrowGeneratorTask.domain], NARROW)
    for name, judge in judges.items():
        measured |= accuracies(judge, name, seeds[name])
        measured |= {} if quick else examine(judge, name, seeds[name])
    diffusion = world_diffusion()
    measured |= held_out_error(diffusion) | ({} if quick else frechet_ratios(diffusion, judges))
    network = hypernetwork.load_hypernetwork()
    measured |= hypernetwork.measured(open_world("tiny", hypernetwork.SOURCE.species), network)
    measured |= quality(load_encoder(), generator)
    measured["stylegan2_human_fd_ratio"] = frechet_ratio(generator, judges["judge"])
    measured["stylegan2_human_fd_ratio_vit"] = frechet_ratio(generator, judges["judge_vit"])
    return measured if quick else measured | {"clip_truth_gap": mean_truth_gap()}


def mean_truth_gap() -> float:
    """How far NADA walks past the truth (`airlib.evaluation.truth_gap`): mean of the gap over the
    tiny profile's pairs of role "table", each adapted with the profile's numbers.
    """
    profile = load_profile("tiny")
    worlds = {source: TinyWorld.open(profile, source) for source in SOURCES}
    gaps = []
    for name in track(pairs_of_role(profile, "table"), "truth gap"):
        world = worlds[profile.pairs[name].source]
        adapted = world.adapt("nada", name).apply(world.generator)
        gaps.append(world.truth_gap(name, world.draw(adapted, GAP_SAMPLES)).gap)
    return sum(gaps) / len(gaps)


@torch.no_grad()
def frechet_ratio(generator: StyleGAN2, judge: ConvJudge | VitJudge, n: int = SAMPLES) -> float:
    """How visible the generator is to the judge, on the scale of an adaptation.

    The Frechet distance of n generated people to n held-out renders of people, divided by that of
    n renders of babies to the same. 0 is perfect; at 1 the generator is as far from its own
    domain as a baby from an adult.
    """
    human, baby = Domain("human"), Domain("human", "baby")

    def latents(purpose: str) -> Tensor:
        return torch.randn(n, LATENT_DIM, generator=rng(0, "frechet ratio", purpose))

    w = generator.map(latents("generated"), c=condition(torch.tensor([human.index] * n)))
    generated = torch.cat([judge.features(generator(part)) for part in w.split(50)])
    people, babies = (
        torch.cat([judge.features(part) for part in render(latents(str(domain)), domain).split(50)])
        for domain in (human, baby)
    )
    return frechet_distance(generated, people) / frechet_distance(babies, people)


def compare(claimed: dict[str, float], measured: dict[str, float]) -> None:
    """Check measured values against claimed ones, {metric: value} each.

    Raises AirlibError, naming every claim that was not measured or is off by more than `TOLERANCE`
    (for a judge's worst domain `WORST_DOMAIN_TOLERANCE`).
    """
    wrong = [
        f"{name} is {measured.get(name, float('nan')):.3f}, recorded as {value:.3f}"
        for name, value in claimed.items()
        if not abs(measured.get(name, float("nan")) - value) <= _tolerance(name)
    ]
    if wrong:
        raise AirlibError(
            f"the shipped weights are not what their records say: {'; '.join(wrong)} "
            f"(accepted difference {TOLERANCE}); install airlib again, or train again"
        )


def _tolerance(metric: str) -> float:
    return WORST_DOMAIN_TOLERANCE if metric.endswith("worst_domain") else TOLERANCE


def _takes_long(metric: str) -> bool:
    """Whether `quick` leaves a metric out."""
    samples = metric.startswith("diffusion_") and "_fd_ratio_" in metric
    return samples or "_exam_" in metric or "_disguise" in metric
