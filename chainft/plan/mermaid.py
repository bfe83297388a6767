"""A plan as a Mermaid flowchart, which GitHub and most editors draw."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from chainft.plan.budget import Budget, StageCost


def mermaid(budget: Budget, size: Callable[[float], str]) -> str:
    """The stages in their order with their sizes, and dotted edges where two share parameters. `size` words bytes."""
    return "\n".join(["flowchart LR", *_nodes(budget, size), *_order(budget), *_shared(budget), ""])


def _nodes(budget: Budget, size: Callable[[float], str]) -> Iterator[str]:
    for number, stage in enumerate(budget.stages):
        yield f'    s{number}["{"<br/>".join(_lines(stage, size))}"]'


def _lines(stage: StageCost, size: Callable[[float], str]) -> Iterator[str]:
    yield _quoted(stage.name)
    if stage.blocks:
        yield _quoted(stage.blocks)
    trained = "frozen" if not stage.num_trainable else f"{stage.num_trainable:,} trained"
    yield f"{stage.num_parameters:,} parameters, {trained}"
    memory = stage.memory
    yield f"weights {size(memory.weights)}, gradients {size(memory.gradients)}"
    yield f"optimizer {size(memory.optimizer)}, activations {size(memory.activations)}"
    yield f"{stage.time_share:.0%} of the step"


def _order(budget: Budget) -> Iterator[str]:
    names = [stage.name for stage in budget.stages]
    for number, stage in enumerate(budget.stages):
        for source in stage.sources:
            yield f"    s{names.index(source)} --> s{number}"


def _shared(budget: Budget) -> Iterator[str]:
    names = [stage.name for stage in budget.stages]
    for number, stage in enumerate(budget.stages):
        for other in stage.shared_with:
            if number < names.index(other):
                yield f"    s{number} -. shares .- s{names.index(other)}"


def _quoted(text: str) -> str:
    """Mermaid ends a label at a quotation mark, and reads # as the start of an entity."""
    return text.replace("#", "#35;").replace('"', "#quot;")
