"""Ten solver steps against recordings of the official DPM-Solver and of diffusers.

`dpm10.npz`: samples of a Gaussian toy, whose noise prediction and exact solution have closed forms.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from airlib.generators.solver import dpm_solver

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = [("dpmsolver", 2), ("dpmsolver", 3), ("dpmsolver++", 2), ("dpmsolver++", 3)]
# Whole training steps instead of fractional ones: the only difference to the official solver.
TIME_ROUNDING = {
    ("dpmsolver", 2): 4e-4, ("dpmsolver", 3): 3e-4,
    ("dpmsolver++", 2): 7e-4, ("dpmsolver++", 3): 2.3e-3,
}  # fmt: skip


@pytest.fixture(scope="module")
def recorded() -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / "dpm10.npz", allow_pickle=False) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files if key != "meta"}


def solve(recorded: dict[str, torch.Tensor], **arguments) -> torch.Tensor:
    """x_T moved to t = 0 with the exact noise prediction for data from N(mu, s^2)."""
    scheduler, x = dpm_solver(**arguments), recorded["xT"]
    kept = torch.cumprod(1 - recorded["betas"], dim=0)
    for t in scheduler.timesteps:
        variance = kept[t] * recorded["s"] ** 2 + 1 - kept[t]
        noise = (1 - kept[t]).sqrt() * (x - kept[t].sqrt() * recorded["mu"]) / variance
        x = scheduler.step(noise, t, x).prev_sample
    return x


def rms(difference: torch.Tensor) -> float:
    return difference.square().mean().sqrt().item()


@pytest.mark.parametrize(("algorithm", "order"), CASES)
def test_ten_steps_equal_the_recordings(recorded, algorithm, order):
    x = solve(recorded, steps=10, order=order, algorithm=algorithm)
    name = f"{algorithm}/multistep{order}"
    same = recorded[f"diffusers/{name}/lof0/sigma_min/x"]
    torch.testing.assert_close(x, same, atol=5e-6, rtol=0)
    official = (x - recorded[f"{name}/time_uniform/x"]).abs().max()
    assert official < TIME_ROUNDING[algorithm, order]
    defaults = recorded[f"diffusers/{name}/lof1/sigma_min/x"]  # lower order in the last steps
    assert (x - defaults).abs().max() > 100 * TIME_ROUNDING[algorithm, order]


def test_the_default_is_the_most_accurate(recorded):
    errors = {
        case: rms(solve(recorded, algorithm=case[0], order=case[1]) - recorded["exact_t0"])
        for case in CASES
    }
    assert rms(solve(recorded) - recorded["exact_t0"]) == min(errors.values()) < 0.054


def test_more_steps_come_nearer_to_the_exact_solution(recorded):
    errors = [rms(solve(recorded, steps=steps) - recorded["exact_t0"]) for steps in (5, 10, 20, 50)]
    assert errors == sorted(errors, reverse=True)


def test_ten_evaluations_at_the_training_steps_nearest_to_the_official_times(recorded):
    official = recorded["dpmsolver/multistep3/time_uniform/nfe_t"]
    assert len(dpm_solver().timesteps) == 10
    assert (dpm_solver().timesteps - official).abs().max() <= 0.5
