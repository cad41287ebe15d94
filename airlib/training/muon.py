"""Muon for convolutions, Adam for everything else, in one optimiser.

Muon (Jordan et al. 2024) replaces the momentum of a weight matrix by the nearest matrix with
orthonormal rows or columns: every direction in which the layer can change is changed equally fast.
For the same number of steps the loss of the tiny world's StyleGAN2 falls clearly further than with
Adam.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

# Coefficients of the fifth-order Newton-Schulz iteration of Jordan et al.: fast, and good to about
# 30 % in every singular value, which is enough for a direction.
A, B, C = 3.4445, -4.7750, 2.0315
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Optimiser that moves `matrices` by Muon (Jordan et al. 2024) and `others` by Adam.

    Muon replaces the momentum of a weight matrix by the nearest matrix with orthonormal rows or
    columns (`orthogonalize`).

    Args:
        matrices: weights [outputs, ...], flattened to [outputs, everything else].
        others: all other parameters.
        lr: learning rate of the others.
        ratio: learning rate of the matrices over `lr`.
        momentum: of the matrices.
        betas: Adam's, for the others.
    """

    def __init__(
        self, matrices: Iterable[nn.Parameter], others: Iterable[nn.Parameter], lr: float = 0.003,
        ratio: float = 10.0, momentum: float = 0.95, betas: tuple[float, float] = (0.9, 0.99),
    ):  # fmt: skip
        groups = [
            {"params": list(matrices), "ratio": ratio, "betas": (momentum, 0.0), "matrix": True},
            {"params": list(others), "ratio": 1.0, "betas": betas, "matrix": False},
        ]
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Update every parameter that has a gradient, once.

        closure: if given, is called first to compute loss and gradients; its loss is returned.
        """
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            update = self._orthogonal if group["matrix"] else self._adam
            for parameter in group["params"]:
                if parameter.grad is not None:
                    direction = update(parameter.grad, self.state[parameter], *group["betas"])
                    parameter.sub_(direction, alpha=group["lr"] * group["ratio"])
        return loss

    def _orthogonal(self, gradient: Tensor, state: dict, momentum: float, _: float) -> Tensor:
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        state["momentum"].lerp_(gradient, 1 - momentum)
        ahead = gradient.lerp(state["momentum"], momentum)  # Nesterov
        return orthogonalize(ahead.flatten(1)).view_as(gradient)

    def _adam(self, gradient: Tensor, state: dict, beta1: float, beta2: float) -> Tensor:
        if not state:
            state |= {"step": torch.zeros([]), "mean": torch.zeros_like(gradient)}
            state["square"] = torch.zeros_like(gradient)
        state["step"] += 1
        state["mean"].lerp_(gradient, 1 - beta1)
        state["square"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        mean = state["mean"] / (1 - beta1 ** state["step"])
        square = state["square"] / (1 - beta2 ** state["step"])
        return mean / (square.sqrt() + 1e-8)


def orthogonalize(matrix: Tensor) -> Tensor:
    """Roughly the nearest matrix [m, n] with orthonormal rows (columns if m > n), scaled.

    The scale is sqrt(max(m, n)), so that the entries have unit mean square. Five steps of the
    Newton-Schulz iteration of Jordan et al. 2024, in bfloat16, bring every singular value to within
    about 30 %.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = (x / (x.norm() + 1e-12)).bfloat16()
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = A * x + (B * gram + C * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype) * max(matrix.shape) ** 0.5
