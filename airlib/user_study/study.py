"""A blinded user study (AIR, section 5.1, Table 3): which picture is better, which set more varied?

    study = Study(("NADA", "AIR"), {"human-baby": "baby"}, latents=24, seed=0)
    sitting = Sitting(study, images, "rater-1", "answers.csv")   # or go on where rater-1 stopped
    left, right = sitting.pictures()                             # PNG bytes
    sitting.answer("left")                                       # on disk before the next question
    read_answers(study, "answers.csv")                           # for preferences.py

A rater answers 12 questions on quality (two pictures of one latent), then 4 on diversity (two sets
of nine latents). AIR shows all methods at once; two at a time are easier to judge and have a left
and a right. Which two meet, on which pictures, in which order and on which sides follows from seed
and rater, every side equally often. So the file of answers needs no names of methods: nothing that
a rater can see has one before `preferences.py` resolves the sides.

The file is a CSV with the columns study, rater, question, side. It is replaced as a whole by each
answer. A line counts once it is complete: what follows the last line break is ignored, and the
question is asked again.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path

import torch
from filelock import FileLock
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.utils import make_grid

from airlib.documents import read_text
from airlib.errors import AirlibError
from airlib.files import write_text
from airlib.seeding import rng

COUNTS = {"quality": 12, "diversity": 4}  # questions, in this order: AIR 5.1
LATENTS = {"quality": 1, "diversity": 9}  # pictures on each side
TEXTS = {
    "quality": "Both pictures are meant to show: {}. Which one is better?",
    "diversity": "Both sets are meant to show: {}. In which one do the pictures differ more?",
}
SIDES = ("left", "right")
HEADER = "study,rater,question,side\n"
RATER = r"\w[\w.-]{0,39}"  # nothing that CSV or a spreadsheet would take for more than a name
PICTURE = 384  # pixels of one side


@dataclass(frozen=True)
class Question:
    """One question of a rater.

    kind: "quality" or "diversity". setup: the pair of domains that the pictures belong to.
    sides: the methods on the left and on the right, not to be shown. latents: numbers of the
    pictures on each side.
    """

    kind: str
    setup: str
    sides: tuple[str, str]
    latents: tuple[int, ...]


@dataclass(frozen=True)
class Study:
    """The plan of a user study: which methods meet, on which pictures.

    `targets` says for each setup (a pair of domains) what its pictures are meant to show; `latents`
    is how many pictures each method has of a setup. `version` names what the pictures were made
    from: answers to other pictures, methods or seeds have another `key` and are refused.
    Raises AirlibError for fewer than two methods, no setup, or fewer than nine pictures.
    """

    methods: tuple[str, ...]
    targets: Mapping[str, str]
    latents: int
    seed: int = 0
    version: str = ""

    def __post_init__(self) -> None:
        if len(set(self.methods)) != len(self.methods) or len(self.methods) < 2:
            raise AirlibError("a study compares at least two methods of different names")
        if not self.targets or self.latents < max(LATENTS.values()):
            raise AirlibError(
                f"a study needs at least one setup, and {max(LATENTS.values())} pictures of each"
            )

    @cached_property
    def key(self) -> str:
        """Twelve characters that stand for everything which decides the questions."""
        parts = [self.methods, dict(self.targets), self.latents, self.seed, self.version]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]

    def questions(self, rater: str) -> list[Question]:
        """The questions of one rater in order; number 1 is the first."""
        stream = rng(self.seed, "user study", rater)
        return [question for kind in COUNTS for question in self._block(kind, stream)]

    def _block(self, kind: str, stream: torch.Generator) -> list[Question]:
        count, size = COUNTS[kind], LATENTS[kind]
        sides = _deal(list(itertools.permutations(self.methods, 2)), count, stream)
        setups = _deal(list(self.targets), count, stream)
        order = torch.randperm(self.latents, generator=stream)
        latents = [tuple(order.roll(-k * size)[:size].tolist()) for k in range(count)]
        return [Question(kind, *three) for three in zip(setups, sides, latents, strict=True)]


def _deal(items: Sequence, count: int, stream: torch.Generator) -> list:
    """`count` of the items in random order, each as often as any other, or once more."""
    full, rest = divmod(count, len(items))
    extra = torch.randperm(len(items), generator=stream)[:rest]
    dealt = [*items] * full + [items[i] for i in extra]
    return [dealt[i] for i in torch.randperm(count, generator=stream)]


# --- answers -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """One answer of a rater: `question` counts from 1, `side` is "left" or "right"."""

    rater: str
    question: int
    side: str


def read_answers(study: Study, path: str | Path) -> list[Answer]:
    """All complete answers of a file in order; none if it does not exist yet.

    Raises AirlibError with the number of a line that is not an answer to this study, or that
    answers a question again.
    """
    path = Path(path)
    answers: dict[tuple[str, int], Answer] = {}
    for number, line in enumerate(_lines(path), start=2):
        found = re.fullmatch(rf"([0-9a-f]+),({RATER}),([0-9]{{1,3}}),(left|right)", line)
        where = f"{path.name}, line {number}"
        if not found or not 1 <= int(found[3]) <= sum(COUNTS.values()):
            raise AirlibError(
                f"{where}: {line[:60]!r} is not an answer ({HEADER.strip()}); correct or delete it"
            )
        if found[1] != study.key:
            raise AirlibError(
                f"{where} answers another study (other methods, pictures or seed) than {study.key};"
                " keep the answers of each study in a file of its own"
            )
        answer = Answer(found[2], int(found[3]), found[4])
        if answers.setdefault((answer.rater, answer.question), answer) is not answer:
            raise AirlibError(f"{where}: {line[:60]!r} answers a question again; delete one line")
    return list(answers.values())


def _lines(path: Path) -> list[str]:
    """The complete lines below the header, with any kind of line break."""
    if not path.exists() or path.is_file() and path.stat().st_size == 0:
        return []
    text = read_text(path, "name another file for the answers")
    header, *lines = text.replace("\r\n", "\n").split("\n")
    complete = header == HEADER.strip()
    if not (complete if lines else HEADER.startswith(header)):
        raise AirlibError(f"{path.name} is not a file of answers ({HEADER.strip()}); name another")
    return lines[:-1]


def _append(study: Study, path: Path, answer: Answer) -> None:
    """Add one answer while no other process does."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        with lock:
            known = read_answers(study, path)
            if any((a.rater, a.question) == (answer.rater, answer.question) for a in known):
                raise AirlibError(
                    f"question {answer.question} was answered in another window; start again here"
                )
            rows = [f"{study.key},{a.rater},{a.question},{a.side}\n" for a in [*known, answer]]
            write_text(path, HEADER + "".join(rows))
    except OSError as error:
        raise AirlibError(f"cannot save the answer in {path}: {error.strerror}") from error


# --- one rater -----------------------------------------------------------------------------------


class Sitting:
    """One rater who answers the questions of a study, from the first that is open in `path`.

    images: setup -> method -> [N, 3, H, W] in [-1, 1], where row n is latent n for every method.
    Raises AirlibError for missing pictures, a bad name of the rater, or a damaged file.
    """

    def __init__(
        self, study: Study, images: Mapping[str, Mapping[str, Tensor]], rater: str, path: str | Path
    ) -> None:
        if not re.fullmatch(RATER, rater):
            raise AirlibError(f"rater {rater!r}: use 1 to 40 letters, digits, '_', '-' and '.'")
        for setup, method in itertools.product(study.targets, study.methods):
            if len(images.get(setup, {}).get(method, ())) < study.latents:
                raise AirlibError(f"{method} has not the {study.latents} pictures of {setup}")
        self.study, self.images, self.rater, self.path = study, images, rater, Path(path)
        self.questions = study.questions(rater)
        answered = {a.question for a in read_answers(study, path) if a.rater == rater}
        self._open = [n for n in range(1, len(self.questions) + 1) if n not in answered]

    @property
    def number(self) -> int | None:
        """The number of the question to be answered, from 1; None after the last."""
        return self._open[0] if self._open else None

    @property
    def question(self) -> Question | None:
        """The question to be answered, names of methods included; None after the last.

        For analysis and simulated raters: a rater must not see it.
        """
        return self.questions[self._open[0] - 1] if self._open else None

    def _asked(self) -> Question:
        if self.question is None:
            raise AirlibError(f"{self.rater} has answered all questions; nothing is left to ask")
        return self.question

    @property
    def text(self) -> str:
        """What is asked, without the names of methods; AirlibError after the last question."""
        asked = self._asked()
        return TEXTS[asked.kind].format(self.study.targets[asked.setup])

    def pictures(self) -> tuple[bytes, bytes]:
        """The PNGs on the left and on the right; AirlibError after the last question."""
        asked = self._asked()
        of_setup, chosen = self.images[asked.setup], list(asked.latents)
        left, right = (_png(of_setup[method][chosen]) for method in asked.sides)
        return left, right

    def answer(self, side: str) -> None:
        """Save the answer "left" or "right" and go on to the next question.

        Raises AirlibError for another side, after the last question, and if the answer cannot be
        saved; then the question stays.
        """
        if side not in SIDES or self.number is None:
            raise AirlibError("an answer is left or right, to a question that is still open")
        _append(self.study, self.path, Answer(self.rater, self.number, side))
        self._open.pop(0)


def simulate(
    sitting: Sitting, strengths: Mapping[str, Mapping[str, float]], stream: torch.Generator
) -> None:
    """Answer what is open as a rater who prefers i to j with probability s_i / (s_i + s_j).

    strengths: kind of question -> method -> s. For trying the machinery out: not a finding.
    """
    while sitting.question is not None:
        left, right = (strengths[sitting.question.kind][m] for m in sitting.question.sides)
        is_left = float(torch.rand((), generator=stream)) < left / (left + right)
        sitting.answer(SIDES[0] if is_left else SIDES[1])


def _png(images: Tensor) -> bytes:
    """[1 or 9, 3, H, W] -> one picture, enlarged without smoothing or averaged down."""
    columns = round(len(images) ** 0.5)
    size = PICTURE // columns
    up = images.shape[-1] <= size
    tiles = interpolate(images.float().cpu(), (size, size), mode="nearest" if up else "area")
    grid = make_grid(tiles.clamp(-1, 1) / 2 + 0.5, columns, padding=2, pad_value=1.0)
    pixels = (grid * 255).round().byte().permute(1, 2, 0).numpy()
    encoded = BytesIO()
    Image.fromarray(pixels).save(encoded, format="png")
    return encoded.getvalue()
