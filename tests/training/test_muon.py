"""Muon: the direction of a matrix without its stretching."""

import pytest
import torch

from airlib.seeding import rng
from airlib.training.muon import Muon, orthogonalize
from airlib.training.state import pack, unpack


@pytest.mark.parametrize("shape", [(16, 90), (90, 16), (24, 24)])
def test_orthogonalized_singular_values_are_nearly_equal(shape):
    """Those of the input span two orders of magnitude; the scale is unit mean square."""
    stretch = torch.logspace(0, -2, min(shape))
    u, _, v = torch.linalg.svd(torch.randn(shape, generator=rng(0)), full_matrices=False)
    result = orthogonalize(u * stretch @ v)
    values = torch.linalg.svdvals(result) / max(shape) ** 0.5
    assert 0.6 < values.min() and values.max() < 1.3
    rotation = torch.linalg.svdvals(u.T @ result @ v.T / max(shape) ** 0.5)
    torch.testing.assert_close(rotation, values, atol=0.02, rtol=0)  # the same singular vectors


def test_a_scaled_gradient_gives_the_same_direction():
    matrix = torch.randn(12, 40, generator=rng(1))
    torch.testing.assert_close(orthogonalize(1e4 * matrix), orthogonalize(matrix))
    assert orthogonalize(torch.zeros(3, 5)).eq(0).all()


def problem() -> tuple[list[torch.nn.Parameter], torch.Tensor, torch.Tensor]:
    weight = torch.nn.Parameter(torch.zeros(8, 4, 3, 1))
    bias = torch.nn.Parameter(torch.zeros(8))
    x = torch.randn(64, 12, generator=rng(2)) * torch.logspace(0, -1, 12)
    y = x @ torch.randn(12, 8, generator=rng(3)) + 1
    return [weight, bias], x, y


def steps(parameters, optimizer, x, y, n: int) -> float:
    for _ in range(n):
        loss = (x @ parameters[0].flatten(1).T + parameters[1] - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def test_a_regression_is_solved_by_matrix_and_bias():
    parameters, x, y = problem()
    optimizer = Muon(parameters[:1], parameters[1:], lr=0.01, ratio=2.0)
    assert steps(parameters, optimizer, x, y, 300) < 0.01 * y.square().mean()


def test_others_move_as_adam_moves_them():
    parameters, x, y = problem()
    twins = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    ours = Muon([], parameters, lr=0.01, betas=(0.9, 0.99))
    steps(parameters, ours, x, y, 5)
    steps(twins, torch.optim.Adam(twins, lr=0.01, betas=(0.9, 0.99)), x, y, 5)
    for parameter, twin in zip(parameters, twins, strict=True):
        torch.testing.assert_close(parameter, twin, atol=1e-6, rtol=0)


def test_a_closure_computes_the_gradient_and_its_loss_is_returned():
    parameters, x, y = problem()
    twins = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    optimizer = Muon(parameters[:1], parameters[1:])
    target = y.square().mean().item()

    def closure() -> float:
        optimizer.zero_grad()
        loss = (x @ parameters[0].flatten(1).T + parameters[1] - y).square().mean()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == pytest.approx(target)
    assert steps(twins, Muon(twins[:1], twins[1:]), x, y, 1) == pytest.approx(target)
    assert all(torch.equal(a, b) for a, b in zip(parameters, twins, strict=True))


def test_resumed_equals_uninterrupted():
    whole, x, y = problem()
    steps(whole, Muon(whole[:1], whole[1:]), x, y, 6)
    first, x, y = problem()
    before = Muon(first[:1], first[1:])
    steps(first, before, x, y, 3)
    second = [torch.nn.Parameter(p.detach().clone()) for p in first]
    after = Muon(second[:1], second[1:])
    unpack(pack({}, before), after)
    steps(second, after, x, y, 3)
    assert all(torch.equal(a, b) for a, b in zip(whole, second, strict=True))
