"""Where a Hugging Face model keeps its blocks, and to which unit each parameter belongs.

Blocks are found by structure, not by name: they are the outermost `ModuleList`s of `GradientCheckpointingLayer`s
(transformers marks nearly every transformer layer so), or of as many like modules as the config has layers. Everything else of a model is its *shell*: embeddings, final norms,
head, and what is handed to all blocks, such as relative positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from chainft.errors import ModelError
from chainft.stages.spans import BlockMap


@dataclass(frozen=True)
class Stack:
    """Blocks that follow each other."""

    name: str
    """Empty, or `encoder` and `decoder` where there are two."""
    path: str
    """Dotted path of the `ModuleList`."""
    size: int
    """How many blocks are computed; more than the list has where it is gone through several times (ALBERT)."""
    entries: int
    """Length of the list."""

    def entry_of(self, block: int) -> int:
        """The place in the list of a block of this stack (ALBERT: its group; modeling_albert.py, `AlbertTransformer`)."""
        return block * self.entries // self.size


@dataclass(frozen=True)
class Blocks:
    """The blocks of a model, numbered from 0 over all stacks."""

    model: PreTrainedModel
    stacks: tuple[Stack, ...]

    @property
    def num_blocks(self) -> int:
        return sum(stack.size for stack in self.stacks)

    @property
    def map(self) -> BlockMap:
        """The same without the modules, for ranges and messages."""
        return BlockMap(type(self.model).__name__, {stack.name: stack.size for stack in self.stacks})

    def path_of(self, block: int) -> str:
        """Dotted path of a block's module."""
        for stack in self.stacks:
            if block < stack.size:
                return f"{stack.path}.{stack.entry_of(block)}"
            block -= stack.size
        raise IndexError(f"block {block} of {self.num_blocks}")

    def module(self, block: int) -> nn.Module:
        return self.model.get_submodule(self.path_of(block))

    def parameters(self) -> Iterator[tuple[str, nn.Parameter, int | None]]:
        """(name, parameter, block) of all, each name once; None: the shell's. Of ALBERT's groups, the first block."""
        first: dict[str, int] = {}
        for block in range(self.num_blocks):
            first.setdefault(f"{self.path_of(block)}.", block)
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            yield name, parameter, next((block for path, block in first.items() if name.startswith(path)), None)


def find_blocks(model: PreTrainedModel) -> Blocks:
    """The blocks of a model. Raises ModelError where it has none that chainft can tell apart."""
    lists = _lists(model)
    if len(lists) == 1:
        path, entries = next(iter(lists.items()))
        return Blocks(model, (Stack("", path, _calls(model, entries), entries),))
    if len(lists) == 2 and model.config.is_encoder_decoder:
        pairs = zip(("encoder", "decoder"), lists.items(), strict=True)
        return Blocks(model, tuple(Stack(name, path, size, size) for name, (path, size) in pairs))
    found = ", ".join(f"{path} ({size})" for path, size in lists.items()) or "none"
    raise ModelError(
        f"{type(model).__name__} cannot be cut into stages: of its lists of blocks chainft finds {found}",
        slug="no-blocks",
        key="chain",
        help="train it without a chain, or take another architecture",
    )


def _lists(model: PreTrainedModel) -> Mapping[str, int]:
    """Path -> length of the outermost lists of blocks, in the model's order."""
    found: dict[str, int] = {}
    for name, module in model.named_modules():
        is_list = isinstance(module, nn.ModuleList) and len(module) > 0
        if is_list and not any(name.startswith(f"{outer}.") for outer in found):
            assert isinstance(module, nn.ModuleList)
            if all(isinstance(entry, GradientCheckpointingLayer) for entry in module) or _counts(model, name, module):
                found[name] = len(module)
    return found


def _counts(model: PreTrainedModel, name: str, module: nn.ModuleList) -> bool:
    """Lists of blocks that transformers 5.23 does not mark: ALBERT's groups, MPNet, SqueezeBERT, I-BERT."""
    if name.endswith("albert_layer_groups"):
        return True
    like = len({type(entry) for entry in module}) == 1 and any(True for _ in module[0].children())
    return like and len(module) == getattr(model.config, "num_hidden_layers", None)


def _calls(model: PreTrainedModel, entries: int) -> int:
    """ALBERT goes through its groups `num_hidden_layers` times in all."""
    return int(model.config.num_hidden_layers) if model.config.model_type == "albert" else entries
