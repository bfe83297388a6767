"""Whether a module that a plug-in built computes what it has to: tried once, before it is put into a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chainft.errors import ConfigError


def check_module(
    module: Any, inputs: Sequence[tuple[Tensor, ...]], width_out: int, *, what: str, key: str
) -> nn.Module:
    """The module, if of each of these inputs it makes a tensor like the first one, but for its last axis, `width_out`.

    Raises ConfigError at `key`; `what` names the plug-in: `head 'mlp'`. The random state stays as it is.
    """

    def unfit(because: str) -> ConfigError:
        return ConfigError(f"{what} cannot be used: {because}", slug="broken-plugin", key=key)

    if not isinstance(module, nn.Module):
        raise unfit(f"build() gave a {type(module).__name__}, not a torch.nn.Module")
    mode, state = module.training, torch.random.get_rng_state()
    module.train(False)
    with torch.no_grad():
        for given in inputs:
            shape = given[0].shape
            try:
                found = module(*given)
            except (RuntimeError, TypeError, ValueError, IndexError) as error:
                raise unfit(f"of hidden states {list(shape)} it fails: {error}") from error
            wanted = [*shape[:-1], width_out]
            if not isinstance(found, Tensor) or list(found.shape) != wanted:
                made = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
                raise unfit(f"of hidden states {list(shape)} it makes {made}, not {wanted}")
    module.train(mode)
    torch.random.set_rng_state(state)
    return module
