"""Which stages stream in and out of a run's device, and where they rest meanwhile, as `launch.*` says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from accelerate import Accelerator

from chainft.config.run import RunConfig
from chainft.stages.blocks import Blocks, find_blocks
from chainft.stages.chain import Chain
from chainft.stages.spans import Span
from chainft.train.offload import Offload
from chainft.train.prepare import Prepared


def make_offload(config: RunConfig, prepared: Prepared, accelerator: Accelerator, folder: Path) -> Offload:
    """Let the model, which is on the CPU, rest. `folder`: that of the run. Raises as `Offload` does."""
    launch, model = config.launch, prepared.loaded.model
    return Offload(
        model,
        prepared.task,
        offload_spans(prepared.chain, find_blocks(model), launch.blocks_per_stage),
        folder=Path(launch.offload_dir or folder) if launch.offload == "disk" else None,
        device=accelerator.device,
        autocast=accelerator.autocast,
    )


def offload_spans(chain: Chain, blocks: Blocks, size: int) -> Iterator[Span]:
    """Stages of at most `size` blocks that end where those of the chain end, and where an encoder does."""
    seam = blocks.stacks[0].size
    whole = Span(0, blocks.num_blocks, embeddings=True, head=True)
    for span in chain.spans.values() if len(chain.spans) > 1 else [whole]:
        halves = (
            [(span.start, seam), (seam, span.stop)] if span.start < seam < span.stop else [(span.start, span.stop)]
        )
        cuts = [start for low, high in halves for start in range(low, high, size)] or [span.start]
        ends = [*cuts[1:], span.stop]
        for start, stop in zip(cuts, ends, strict=True):
            yield Span(start, stop, span.embeddings and start == cuts[0], span.head and start == cuts[-1])
