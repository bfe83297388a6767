"""Lion against values computed by hand from algorithm 2 of Chen et al. 2023 (arXiv:2302.06675)."""

from __future__ import annotations

import pytest
import torch

from chainft.train.lion import Lion


def step(optimizer: Lion, parameter: torch.nn.Parameter, gradient: list[float]) -> None:
    parameter.grad = torch.tensor(gradient, dtype=parameter.dtype)
    optimizer.step()


def test_two_steps_equal_the_hand_computation() -> None:
    # Step 1: m = 0, so c = 0.1 g and theta = theta (1 - 0.1 * 0.5) - 0.1 sign(g); m = 0.01 g.
    # Step 2: c = 0.9 m + 0.1 g = [0.018 - 0.1, -0.009 + 0.0001, 0.1]; signs -, -, +.
    theta = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    optimizer = Lion([theta], lr=0.1, betas=(0.9, 0.99), weight_decay=0.5)
    step(optimizer, theta, [2.0, -1.0, 0.0])
    assert theta.tolist() == pytest.approx([0.95 - 0.1, -1.9 + 0.1, 0.475])
    assert optimizer.state[theta]["exp_avg"].tolist() == pytest.approx([0.02, -0.01, 0.0])
    step(optimizer, theta, [-1.0, 0.001, 1.0])
    assert theta.tolist() == pytest.approx([0.85 * 0.95 + 0.1, -1.8 * 0.95 + 0.1, 0.475 * 0.95 - 0.1])
    assert optimizer.state[theta]["exp_avg"].tolist() == pytest.approx([0.0098, -0.00989, 0.01])


def test_zero_gradient_and_momentum_move_nothing() -> None:
    theta = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    step(Lion([theta], lr=0.1), theta, [0.0, 0.0])
    assert theta.tolist() == [1.0, 2.0]


def test_parameters_of_several_dtypes_and_without_gradient_go_together() -> None:
    parameters = [torch.nn.Parameter(torch.ones(2, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16)]
    idle = torch.nn.Parameter(torch.ones(2))
    optimizer = Lion([*parameters, idle], lr=0.5)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert [parameter.tolist() for parameter in (*parameters, idle)] == [[0.5, 0.5], [0.5, 0.5], [1.0, 1.0]]
    assert idle not in optimizer.state


def test_closure_is_evaluated_with_gradients() -> None:
    theta = torch.nn.Parameter(torch.tensor([3.0]))
    optimizer = Lion([theta], lr=0.5)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = theta.square().sum()
        torch.autograd.backward(loss)
        return loss.detach()

    assert float(optimizer.step(closure)) == 9.0
    assert theta.item() == 2.5


def test_sparse_gradients_are_refused() -> None:
    theta = torch.nn.Parameter(torch.ones(3))
    theta.grad = torch.zeros(3).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        Lion([theta]).step()


@pytest.mark.parametrize(
    "options", [{"lr": -1.0}, {"weight_decay": -0.1}, {"betas": (1.0, 0.9)}, {"betas": (0.9, -0.1)}]
)
def test_values_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Invalid"):
        Lion([torch.nn.Parameter(torch.ones(1))], **options)  # type: ignore[arg-type]
