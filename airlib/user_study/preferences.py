"""What the answers of a user study say: shares with intervals, and Bradley-Terry strengths.

    rows = preferences(study, read_answers(study, "answers.csv"), rng(0, "raters"))

Bradley and Terry (1952) give each method i a strength s_i > 0 and say

    P(i is preferred to j) = s_i / (s_i + s_j),        sum_i s_i = 1.

The most likely strengths solve s_i = wins_i / sum_j n_ij / (s_i + s_j), where n_ij counts how often
i met j; applying the right side again and again converges to them (Hunter 2004). With two methods
the strength is the share of wins. A method that never wins has strength 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from airlib.errors import AirlibError
from airlib.evaluation.intervals import Interval, percentiles, wilson_interval
from airlib.user_study.study import COUNTS, SIDES, Answer, Study

STEPS, TINY = 2000, 1e-300

ASSUMPTIONS = """\
What these numbers assume:
- Share = chosen / shown. Its Wilson interval takes all answers as independent. Those of one rater
  are not, so the true interval is wider; compare it with the next.
- Strength = Bradley-Terry, one number per method for all raters, pictures and sides. Its interval
  draws whole raters anew (bootstrap): it speaks about other raters, not about other pictures.
- Ties are not offered: who sees no difference must guess, which pulls shares towards one half.
- Left and right are balanced, so a liking for one side costs precision and favours no method.
- Answers count also if their rater stopped early. The number of raters must be fixed beforehand.
- Raters do not know the methods, agreed to take part, and did not write the paper.
"""


@dataclass(frozen=True)
class Preference:
    """What raters said of one method in one kind of question.

    chosen: how often the method's side was chosen; shown: how often it was asked about.
    interval: Wilson's 95 % interval of the share chosen / shown. strength: Bradley and Terry's, in
    0 .. 1. strength_interval: 95 %, by drawing raters anew; None for a single rater. raters: how
    many answered.
    """

    kind: str
    method: str
    chosen: int
    shown: int
    interval: Interval
    strength: float
    strength_interval: Interval | None
    raters: int

    @property
    def share(self) -> float:
        """How often the method was chosen when it was shown, 0 .. 1."""
        return self.chosen / self.shown


def preferences(
    study: Study, answers: Sequence[Answer], stream: torch.Generator, resamples: int = 2000
) -> list[Preference]:
    """Shares and strengths of methods: a row per kind of question that was answered, and method.

    stream: draws the raters of the bootstrap, `resamples` times.
    Raises AirlibError where the strengths are not determined: two groups of methods never met.
    """
    rows = []
    for kind in COUNTS:
        wins = _wins(study, answers, kind)  # [raters, methods, methods]
        if not len(wins):
            continue
        total = wins.sum(0)
        _require_connected(total, study.methods)
        strengths = bradley_terry(total).tolist()
        intervals: list[Interval | None] = [None] * len(study.methods)
        if len(wins) > 1:
            drawn = torch.randint(len(wins), (resamples, len(wins)), generator=stream)
            draws = bradley_terry(wins[drawn].sum(1))  # [resamples, methods]
            intervals = [percentiles(column) for column in draws.T]
        for k, method in enumerate(study.methods):
            chosen = int(total[k].sum())
            shown = chosen + int(total[:, k].sum())
            share = wilson_interval(chosen, shown)
            own = (strengths[k], intervals[k], len(wins))
            rows.append(Preference(kind, method, chosen, shown, share, *own))
    return rows


def left_share(answers: Sequence[Answer]) -> tuple[float, Interval]:
    """How often the left side was chosen, with Wilson's interval; 1/2 if it does not matter."""
    left = sum(answer.side == SIDES[0] for answer in answers)
    return left / max(len(answers), 1), wilson_interval(left, len(answers))


def bradley_terry(wins: Tensor) -> Tensor:
    """Most likely strengths [..., K], of sum 1, for wins [..., K, K]: how often row beat column."""
    wins = wins.double()
    met, won = wins + wins.mT, wins.sum(-1)
    strengths = torch.full_like(won, 1 / won.shape[-1])
    for _ in range(STEPS):
        sums = strengths[..., :, None] + strengths[..., None, :]
        updated = won / (met / sums.clamp(min=TINY)).sum(-1).clamp(min=TINY)
        updated = updated / updated.sum(-1, keepdim=True)
        change = (updated - strengths).abs().max()
        strengths = updated
        if change < 1e-12:
            break
    return strengths


def _wins(study: Study, answers: Sequence[Answer], kind: str) -> Tensor:
    """[R, K, K]: how often each of the raters who answered chose row over column."""
    index = {method: k for k, method in enumerate(study.methods)}
    counts: dict[str, Tensor] = {}
    for rater in dict.fromkeys(answer.rater for answer in answers):
        questions, wins = study.questions(rater), torch.zeros(len(index), len(index))
        for answer in (a for a in answers if a.rater == rater):
            asked = questions[answer.question - 1]
            left, right = (index[method] for method in asked.sides)
            winner, loser = (left, right) if answer.side == SIDES[0] else (right, left)
            wins[winner, loser] += asked.kind == kind
        if wins.any():
            counts[rater] = wins
    return torch.stack([*counts.values()]) if counts else torch.zeros(0, len(index), len(index))


def _require_connected(total: Tensor, methods: Sequence[str]) -> None:
    met = (total + total.T > 0).double() + torch.eye(len(methods), dtype=torch.float64)
    reached = torch.linalg.matrix_power(met, len(methods))[0] > 0
    if not reached.all():
        apart = ", ".join(m for m, r in zip(methods, reached, strict=True) if not r)
        raise AirlibError(
            f"{apart} never met {methods[0]}, not even through others; collect more answers"
        )
