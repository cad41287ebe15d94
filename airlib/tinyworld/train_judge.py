"""Training of the two judges, a conv net and a vision transformer, each on its own.

Each step draws renders and damages most of them in known amounts (`artefacts`). A quarter is then
attacked: moved, hardly visibly, so that this very judge misreads it. The judge is asked for the
domain, the latent and the amount of each kind of damage. An adapted generator is free to find
images that fool a network; these steps take the cheap ways away.

Whether the features then *measure* is a separate question, answered by the exam (`exam`).
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from airlib.seeding import rng as stream
from airlib.tinyworld.artefacts import KINDS, attack, damage_randomly
from airlib.tinyworld.attributes import LATENT_DIM
from airlib.tinyworld.domains import AGES, SPECIES, STYLES
from airlib.tinyworld.exam import examine
from airlib.tinyworld.judge import ConvJudge, VitJudge
from airlib.tinyworld.pool import load_pool
from airlib.training.precision import reduced_precision

BATCH = 128
ATTACKED = BATCH // 4
MAX_PERTURBATION = 4.0
"""Largest L2 norm of an attack on a [-1, 1] image: 0.036 per value of 64 x 64 pixels."""

POOL_SIZE = 120_000  # shared by all trainings
LABELS = {"species": len(SPECIES), "age": len(AGES), "style": len(STYLES)}
OUTPUTS = {**LABELS, "latent": LATENT_DIM, "damage": len(KINDS)}

# The loss of each head when it knows nothing is about 1.8 (labels), 1 (latent) and 0.05 (damage).
LATENT_WEIGHT = 1.0
DAMAGE_WEIGHT = 10.0


class JudgeTask:
    """The conv net as a task of `airlib.training.loop`."""

    name = "judge"
    network: type[ConvJudge | VitJudge] = ConvJudge
    peak, warm_up = 3e-3, 0.03  # learning rate, and the share of the steps that leads up to it

    def __init__(self, seed: int = 0, steps: int = 1500, pool_size: int = POOL_SIZE) -> None:
        self.seed, self.steps = seed, steps
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(seed, self.name, "weights").initial_seed())
            self.judge = self.network(OUTPUTS).to(memory_format=torch.channels_last)
        self.modules = {"judge": self.judge}
        self.optimizer = torch.optim.AdamW(self.judge.parameters(), weight_decay=0.01)
        self.pool = load_pool(pool_size, seed, "train")

    def learning_rate(self, progress: float) -> float:
        """Linear warm-up, then a cosine from `peak` to 0."""
        warm_up = min(1.0, (progress + 1e-3) / self.warm_up)
        return self.peak * warm_up * 0.5 * (1 + math.cos(math.pi * progress))

    def loss(self, step: int, rng: torch.Generator) -> Tensor:
        """Sum of the heads' losses on one batch of randomly damaged, partly attacked renders."""
        chosen = torch.randint(len(self.pool.images), (BATCH,), generator=rng)
        images, severity = damage_randomly(self.pool.pictures(chosen), rng)
        self.judge.eval()  # attacked as it will be used, with its running statistics
        attacked = attack(
            images[:ATTACKED],
            lambda moved: self.misreading(self.read(moved), chosen[:ATTACKED]),
            MAX_PERTURBATION,
            rng,
        )
        self.judge.train()
        outputs = self.read(torch.cat([attacked, images[ATTACKED:]]))
        damage_error = F.mse_loss(outputs["damage"], severity)
        return self.misreading(outputs, chosen) + DAMAGE_WEIGHT * damage_error

    def read(self, images: Tensor) -> dict[str, Tensor]:
        """The heads' outputs, computed in bfloat16."""
        with reduced_precision():
            outputs = self.judge(images.contiguous(memory_format=torch.channels_last))
        return {name: output.float() for name, output in outputs.items()}

    def misreading(self, outputs: dict[str, Tensor], rows: Tensor) -> Tensor:
        """Loss of the labels and the latent, given the pool's rows that were shown."""
        truth = unit_moment(self.pool.latents[rows])
        total = LATENT_WEIGHT * F.mse_loss(outputs["latent"], truth)
        for name, label in zip(LABELS, self.pool.domains[rows].unbind(1), strict=True):
            total = total + F.cross_entropy(outputs[name], label)
        return total

    def after_step(self, step: int) -> None:
        """Nothing to keep up to date: no running average of the weights."""

    def evaluate(self) -> dict[str, float]:
        """Accuracies on 1,000 unseen renders, and the exam."""
        self.judge.eval()
        scores = accuracies(self.judge, self.name, self.seed)
        scores |= examine(self.judge, self.name, self.seed)
        self.judge.train()
        return scores

    def export(self) -> tuple[dict[str, Tensor], dict]:
        """The state to ship and what rebuilds the network around it."""
        state = self.judge.state_dict()
        tensors = {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}
        return tensors, self.judge.config


class VitJudgeTask(JudgeTask):
    """The vision transformer, which asks for smaller steps, a longer warm-up and more of both."""

    name = "judge_vit"
    network = VitJudge
    peak, warm_up = 1e-3, 0.05

    def __init__(self, seed: int = 0, steps: int = 4000, pool_size: int = POOL_SIZE) -> None:
        super().__init__(seed, steps, pool_size)


@torch.no_grad()
def accuracies(judge: ConvJudge | VitJudge, name: str, seed: int) -> dict[str, float]:
    """Accuracy of each label on 1,000 test renders, and the explained variance (R^2) of damage.

    `name` is the task's; the metrics are called `NAME_species`, ..., `NAME_damage_r2`.
    """
    pool = load_pool(1000, seed, "test")
    images = pool.pictures(slice(None))
    outputs = judge(images)
    scores = {
        f"{name}_{label}": (outputs[label].argmax(1) == truth).float().mean().item()
        for label, truth in zip(LABELS, pool.domains.unbind(1), strict=True)
    }
    damaged, severity = damage_randomly(images, stream(seed, "judge", "damage"))
    error = (judge(damaged)["damage"] - severity).square().mean()
    scores[f"{name}_damage_r2"] = 1 - (error / severity.var(0).mean()).item()
    return scores


def unit_moment(z: Tensor) -> Tensor:
    """Latents [n, 64] scaled as the renderer scales them, so that the target is what is drawn."""
    return z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
