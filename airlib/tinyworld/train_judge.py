"""Training of the judge, and the exam it must pass before its distances are printed anywhere.

Each step draws renders, damages most of them in known amounts (`artefacts`), and asks the judge for
the domain, the latent and the amount of each kind of damage. Whether its features then *measure* is
a separate question. `examine` answers it by the order in which Frechet distances to a set of true
targets must come,

    other true targets  <  lightly damaged  <  heavily damaged  <  unadapted source,

and by how far damage alone brings the source towards the target: dots on a human must not pass for
a zombie.
"""

import math
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from airlib.evaluation.frechet import frechet_distance
from airlib.seeding import rng as stream
from airlib.tinyworld.artefacts import KINDS, damage, damage_randomly
from airlib.tinyworld.attributes import LATENT_DIM
from airlib.tinyworld.domains import AGES, SPECIES, STYLES, Domain
from airlib.tinyworld.judge import Judge
from airlib.tinyworld.pool import load_pool
from airlib.tinyworld.renderer import render

BATCH = 128
POOL_SIZE = 120_000  # shared by all trainings
LABELS = {"species": len(SPECIES), "age": len(AGES), "style": len(STYLES)}
OUTPUTS = {**LABELS, "latent": LATENT_DIM, "damage": len(KINDS)}

# The loss of each head when it knows nothing is about 1.8 (labels), 1 (latent) and 0.05 (damage).
LATENT_WEIGHT = 1.0
DAMAGE_WEIGHT = 10.0

LIGHT, HEAVY = 0.3, 0.9  # severities in the exam
EXAM_PAIRS = tuple(
    [(Domain("human"), Domain("human", "baby"))]
    + [(Domain("human"), Domain(species)) for species in ("werewolf", "zombie", "cat")]
    + [(Domain("human"), Domain("human", style=style)) for style in STYLES[1:]]
    + [(Domain("dog"), Domain("cat")), (Domain("dog"), Domain("dog", style="watercolor"))]
)
LINKS = ("light", "heavy", "source")


class JudgeTask:
    """The judge as a task of `airlib.tinyworld.training`."""

    name = "judge"

    def __init__(self, seed: int = 0, steps: int = 1500) -> None:
        self.seed, self.steps = seed, steps
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(seed, self.name, "weights").initial_seed())
            self.judge = Judge(OUTPUTS).to(memory_format=torch.channels_last)
        self.modules = {"judge": self.judge}
        self.optimizer = torch.optim.AdamW(self.judge.parameters(), weight_decay=0.01)
        self.pool = load_pool(POOL_SIZE, seed, "train")

    def learning_rate(self, progress: float) -> float:
        """Linear warm-up over the first 3 %, then a cosine from 0.003 to 0."""
        warm_up = min(1.0, (progress + 1e-3) / 0.03)
        return 3e-3 * warm_up * 0.5 * (1 + math.cos(math.pi * progress))

    def loss(self, step: int, rng: torch.Generator) -> Tensor:
        """Sum of the heads' losses on one batch of randomly damaged renders."""
        chosen = torch.randint(len(self.pool.images), (BATCH,), generator=rng)
        images, severity = damage_randomly(self.pool.pictures(chosen), rng)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = self.judge(images.contiguous(memory_format=torch.channels_last))
        outputs = {name: output.float() for name, output in outputs.items()}
        total = LATENT_WEIGHT * F.mse_loss(
            outputs["latent"], unit_moment(self.pool.latents[chosen])
        )
        total = total + DAMAGE_WEIGHT * F.mse_loss(outputs["damage"], severity)
        for name, label in zip(LABELS, self.pool.domains[chosen].unbind(1), strict=True):
            total = total + F.cross_entropy(outputs[name], label)
        return total

    def after_step(self, step: int) -> None:
        """Nothing to keep up to date: no running average of the weights."""

    def evaluate(self) -> dict[str, float]:
        """Accuracies on 1,000 unseen renders, and the exam."""
        self.judge.eval()
        scores = {**accuracies(self.judge, self.seed), **examine(self.judge, self.seed)}
        self.judge.train()
        return scores

    def export(self) -> tuple[dict[str, Tensor], dict]:
        """The state to ship and what rebuilds the network around it."""
        state = self.judge.state_dict()
        tensors = {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}
        return tensors, self.judge.config


@torch.no_grad()
def accuracies(judge: Judge, seed: int) -> dict[str, float]:
    """Accuracy of each label on 1,000 test renders, and the explained variance (R^2) of damage."""
    pool = load_pool(1000, seed, "test")
    images = pool.pictures(slice(None))
    outputs = judge(images)
    scores = {
        f"judge_{name}": (outputs[name].argmax(1) == label).float().mean().item()
        for name, label in zip(LABELS, pool.domains.unbind(1), strict=True)
    }
    damaged, severity = damage_randomly(images, stream(seed, "judge", "damage"))
    error = (judge(damaged)["damage"] - severity).square().mean()
    scores["judge_damage_r2"] = 1 - (error / severity.var(0).mean()).item()
    return scores


def examine(judge: Judge, seed: int, n: int = 150) -> dict[str, float]:
    """The exam, over `EXAM_PAIRS` x kinds of damage, on sets of n images each.

    Returns `judge_exam_passed`, the share of right orderings in the chain above, and the same for
    each of its links (`judge_exam_light`, ...). `judge_disguise` is the share of the distance from
    source to target that heavy damage of the source removes, averaged over all cases: 0 is ideal.
    Some is due, since damage destroys what told the two domains apart. `judge_disguise_worst` is
    its largest value.
    """
    right: dict[str, list[bool]] = {link: [] for link in LINKS}
    disguise: list[float] = []
    for source, target in EXAM_PAIRS:
        draw = stream(seed, "judge exam", str(source), str(target))
        truth = _features(judge, _renders(target, n, draw))
        again, unadapted = _renders(target, n, draw), _renders(source, n, draw)
        distance = partial(_distance, judge, truth)
        floor, start = distance(again), distance(unadapted)
        for kind in KINDS:
            light = distance(damage(again, kind, LIGHT, draw))
            heavy = distance(damage(again, kind, HEAVY, draw))
            for link, (near, far) in zip(
                LINKS, pairwise((floor, light, heavy, start)), strict=True
            ):
                right[link].append(near < far)
            disguised = distance(damage(unadapted, kind, HEAVY, draw))
            disguise.append(max(0.0, 1 - disguised / start) if start > 0 else 1.0)
    shares = {f"judge_exam_{link}": sum(cases) / len(cases) for link, cases in right.items()}
    return {
        "judge_exam_passed": sum(shares.values()) / len(shares),
        **shares,
        "judge_disguise": sum(disguise) / len(disguise),
        "judge_disguise_worst": max(disguise),
    }


def unit_moment(z: Tensor) -> Tensor:
    """Latents [n, 64] scaled as the renderer scales them, so that the target is what is drawn."""
    return z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def _renders(domain: Domain, n: int, rng: torch.Generator) -> Tensor:
    return render(torch.randn(n, LATENT_DIM, generator=rng), domain)


@torch.no_grad()
def _features(judge: Judge, images: Tensor) -> Tensor:
    images = images.contiguous(memory_format=torch.channels_last)
    return torch.cat([judge.features(batch) for batch in images.split(100)])


def _distance(judge: Judge, truth: Tensor, images: Tensor) -> float:
    return frechet_distance(_features(judge, images), truth)
