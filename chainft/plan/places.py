"""Which spans of a model are the stages of a pipeline: one rule for training, which measures costs, and for the plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from chainft.config.launch import LaunchConfig
from chainft.errors import ConfigError
from chainft.plan.balance import balanced_cuts
from chainft.stages.spans import Span, spans_between


def place_spans(
    launch: LaunchConfig, spans: Sequence[Span], num_blocks: int, block_costs: Callable[[], Sequence[float]]
) -> list[Span]:
    """The stages that a pipeline has, in order, of a chain with `spans`; `block_costs` are asked for where they decide.

    Where the chain has more stages than the pipeline, neighbours go together, where it has none the blocks are divided.
    Raises ConfigError where the chain has too few stages, or the model too few blocks.
    """
    count = launch.pipeline * launch.stages_of_place
    if len(spans) == count:
        return list(spans)
    if 1 < len(spans) < count or num_blocks < count:
        has = f"the chain has {len(spans)} stages" if len(spans) > 1 else f"the model has {num_blocks} blocks"
        each = f", {launch.stages_of_place} a place" if launch.stages_of_place > 1 else ""
        raise ConfigError(
            f"launch.pipeline = {launch.pipeline} with schedule {launch.schedule!r} needs {count} stages{each}, and {has}",
            slug="too-few-stages",
            key="launch.pipeline",
            help="give the chain more stages (chain.split), or take fewer places or a schedule with one stage a place "
            "(1f1b, gpipe)",
        )
    costs = block_costs()
    if len(spans) == 1:
        return list(spans_between(balanced_cuts(costs, count)))
    # Stages of embeddings or a head alone have no blocks; they cost a little, so that they have a place too.
    least = min(costs) / 10
    ends = balanced_cuts([sum(costs[span.start : span.stop]) + least for span in spans], count)
    return [_joined(spans[start:stop]) for start, stop in pairwise(ends)]


def _joined(spans: Sequence[Span]) -> Span:
    return Span(spans[0].start, spans[-1].stop, spans[0].embeddings, spans[-1].head)
