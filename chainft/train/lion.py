"""Lion: steps by the sign of an interpolated gradient (Chen et al. 2023, arXiv:2302.06675, algorithm 2).

Half of AdamW's memory. Its steps have the same size in every direction, so `lr` is 3 to 10 times smaller than AdamW's
and `weight_decay` as much larger (section 5 of the paper).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class Lion(torch.optim.Optimizer):
    """theta <- theta - lr * (sign(b1 m + (1 - b1) g) + weight_decay * theta);  m <- b2 m + (1 - b2) g."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        if lr < 0.0:
            raise ValueError(f"Invalid learning rate: {lr}")
        if weight_decay < 0.0:
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
        for index, beta in enumerate(betas):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"Invalid beta parameter at index {index}: {beta}")
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameters in _by_kind(group["params"]):
                self._update(parameters, group["lr"], group["betas"], group["weight_decay"])
        return loss

    def _update(self, parameters: list[Tensor], lr: float, betas: tuple[float, float], weight_decay: float) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        momenta = [self._momentum(parameter) for parameter in parameters]
        direction = torch._foreach_lerp(momenta, gradients, 1.0 - betas[0])
        torch._foreach_sign_(direction)
        if weight_decay:
            torch._foreach_mul_(parameters, 1.0 - lr * weight_decay)
        torch._foreach_add_(parameters, direction, alpha=-lr)
        torch._foreach_lerp_(momenta, gradients, 1.0 - betas[1])

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "exp_avg" not in state:
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        momentum: Tensor = state["exp_avg"]
        return momentum


def _by_kind(parameters: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    """Parameters with a gradient, those of one device and dtype together: what a foreach kernel takes."""
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            raise RuntimeError("Lion does not take sparse gradients")
        groups.setdefault((parameter.device, parameter.dtype), []).append(parameter)
    return groups.values()
