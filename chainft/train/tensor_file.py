"""Named tensors in a safetensors file, tied ones stored once: `safetensors` itself refuses tensors that share memory."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from chainft.errors import CheckpointError

_OS_ERROR = re.compile(r"os error (\d+)")
"""How the Rust library names an error of the system in its message."""


@dataclass(frozen=True)
class Packed:
    """Tensors ready for a file."""

    tensors: Mapping[str, Tensor]
    """Each dense, contiguous and sharing memory with no other."""
    aliases: Mapping[str, str]
    """Names of the tensors that are the same as one in `tensors`, each with that one's name."""

    @property
    def num_bytes(self) -> int:
        """Bytes of the values; the file has a header of some 100 bytes a tensor more."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    def summary(self) -> dict[str, str]:
        """dtype and shape of each tensor."""
        return {name: f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for name, t in self.tensors.items()}


def pack(tensors: Mapping[str, Tensor]) -> Packed:
    """Sort out which tensors are one and the same, and copy those that merely overlap or have gaps."""
    stored: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    views: dict[object, str] = {}
    storages: set[tuple[str, int]] = set()
    for name, tensor in tensors.items():
        view = (str(tensor.device), tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        storage = (str(tensor.device), tensor.untyped_storage().data_ptr())
        if tensor.numel() and view in views:
            aliases[name] = views[view]
            continue
        views[view] = name
        stored[name] = tensor.detach().clone() if storage in storages else tensor.detach()
        stored[name] = stored[name].contiguous()
        storages.add(storage)
    return Packed(stored, aliases)


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies in memory of the CPU that nobody else changes, pinned where they come from a GPU; tied ones stay tied."""
    packed = pack(tensors)
    copies: dict[str, Tensor] = {}
    for name, tensor in packed.tensors.items():
        copies[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        copies[name].copy_(tensor, non_blocking=True)
    if any(tensor.is_cuda for tensor in packed.tensors.values()):
        torch.cuda.synchronize()
    return copies | {alias: copies[name] for alias, name in packed.aliases.items()}


def write_tensors(path: Path, packed: Packed) -> None:
    """Write the file, with the permissions of a new file. Raises OSError where the system does not let it."""
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(dict(packed.tensors), path, metadata={"format": "pt"})
    except SafetensorError as error:
        found = _OS_ERROR.search(str(error))
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, os.strerror(number) if found else str(error), str(path)) from error
    path.chmod(mode)  # safetensors 0.8 leaves a file that only its owner may read.


def read_tensors(path: Path, aliases: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors on the CPU under all their names; tied ones are the same object again.

    The file is mapped: of each tensor the bytes are read when they are used, so that nobody reads what he leaves alone.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot read {path.name}: {error}", slug="unreadable", where=str(path)) from error
    return tensors | {alias: tensors[name] for alias, name in aliases.items()}
