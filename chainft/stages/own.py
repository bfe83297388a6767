"""Cuts a whole model, loaded and with every policy applied, into the stages that one process computes.

The stages of one process share the model, so that a parameter of which several of them have a copy stays one tensor
there; parameters of other processes' stages become ghosts (see `chainft.stages.partial`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn
from transformers import PreTrainedModel

from chainft.stages.families import check_start
from chainft.stages.gates import Gates
from chainft.stages.owners import live, owners
from chainft.stages.partial import Stage, leave_out
from chainft.stages.spans import Span


def own_stages(model: PreTrainedModel, spans: Sequence[Span], mine: Sequence[int]) -> list[Stage]:
    """The stages number `mine` of `spans`, which are all stages from embeddings to head.

    Changes the model: what none of these stages computes with is dropped. Parameters that stay are the same objects,
    frozen or with adapters as they were. Raises ModelError for a cut or a family that is refused.
    """
    for span in spans:
        check_start(model, span)
    gates = Gates(model)
    names = {number: live(gates, spans[number]) for number in mine}
    for number in mine:
        if spans[number].head:  # Also what no stage computes with, which a checkpoint must have all the same.
            names[number] |= {name for name, unit in owners(model).items() if unit == gates.blocks.num_blocks}
    canonical = canonical_names(model)
    ghosts = leave_out(model, set().union(*names.values()))
    return [
        Stage(gates, spans[number], ghosts, names={name: canonical[name] for name in sorted(names[number])})
        for number in mine
    ]


def canonical_names(model: nn.Module) -> Mapping[str, str]:
    """Each name of each parameter -> the first of the names that the parameter has: the same in every cut."""
    first: dict[int, str] = {}
    return {
        name: first.setdefault(id(parameter), name)
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }
