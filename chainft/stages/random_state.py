"""Where torch's random numbers stand: to put them back, and to see whether any were drawn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RandomState:
    """Where the random numbers of the CPU and of a GPU stand."""

    cpu: Tensor
    device: torch.device
    gpu: Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> RandomState:
        gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.get_rng_state(), device, gpu)

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.gpu is not None:
            torch.cuda.set_rng_state(self.gpu, self.device)

    def packed(self) -> Tensor:
        """(bytes,) of uint8 on the CPU, to send it to another process."""
        return self.cpu if self.gpu is None else torch.cat([self.cpu, self.gpu])

    @classmethod
    def unpacked(cls, packed: Tensor, device: torch.device) -> RandomState:
        """What `packed` gave on the like device of another process."""
        size = torch.get_rng_state().numel()
        return cls(packed[:size], device, packed[size:] if device.type == "cuda" else None)

    def equals(self, other: RandomState) -> bool:
        """Whether no random number was drawn between the two."""
        same = torch.equal(self.cpu, other.cpu)
        return same and (self.gpu is None or other.gpu is None or torch.equal(self.gpu, other.gpu))
