"""What saving costs a training: chainft's checkpoints, written at once or beside the training, and what others offer.

    python scripts/bench_checkpoint.py --steps 6 --every 2 --turns 3

A model of MiniLM's size (6 layers, width 384) with random weights is trained by AdamW on random tokens. The ways of
saving take turns, each after a warm-up step. Printed are medians over the turns: for how long a save held the training
up, how long all steps took with what was still being written at their end, and both as ratios to chainft's synchronous
way. chainft flushes to the disk, keeps sha256 digests and removes old checkpoints; the other ways do not.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from accelerate import Accelerator
from transformers import BertConfig, BertForMaskedLM

from chainft.config.run import CheckpointConfig
from chainft.train.optimizer_state import pack_optimizer
from chainft.train.parts import own_part
from chainft.train.shared_checkpoints import SharedCheckpoints
from chainft.world import World

Save = Callable[[int], None]


class Training:
    """A model, its optimizer and batches of random tokens."""

    def __init__(self, device: str) -> None:
        torch.manual_seed(0)
        config = BertConfig(num_hidden_layers=6, hidden_size=384, num_attention_heads=12, intermediate_size=1536)
        self.model = BertForMaskedLM(config).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5)
        self.tokens = torch.randint(config.vocab_size, (8, 64), device=device)
        self.device = device

    def step(self) -> None:
        self.model(input_ids=self.tokens, labels=self.tokens).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.device == "cuda":
            torch.cuda.synchronize()


def chainft_saving(training: Training, folder: Path, *, asynchronous: bool) -> tuple[Save, Callable[[], None]]:
    """As `chainft.train.fit` does."""
    checkpoints = SharedCheckpoints.of(World(), folder, CheckpointConfig(asynchronous=asynchronous))

    def save(step: int) -> None:
        tensors, groups = pack_optimizer(training.optimizer, training.model)
        model = own_part(training.model.state_dict(keep_vars=True), checkpoints.world)
        checkpoints.save(step, tensors={"model": model, "optimizer": tensors}, state=groups, facts={})

    return save, checkpoints.settle


def accelerate_saving(training: Training, folder: Path) -> tuple[Save, Callable[[], None]]:
    """`Accelerator.save_state`."""
    accelerator = Accelerator(cpu=training.device == "cpu")
    accelerator.prepare(training.model, training.optimizer)
    return lambda step: accelerator.save_state(str(folder / f"step-{step}")), lambda: None


def dcp_saving(training: Training, folder: Path, *, asynchronous: bool) -> tuple[Save, Callable[[], None]]:
    """`torch.distributed.checkpoint`."""
    pending: list[Any] = []

    def settle() -> None:
        while pending:
            pending.pop().result()

    def save(step: int) -> None:
        state = {"model": training.model.state_dict(), "optimizer": training.optimizer.state_dict()}
        path = str(folder / f"step-{step}")
        if asynchronous:
            settle()
            pending.append(dcp.async_save(state, checkpoint_id=path))
        else:
            dcp.save(state, checkpoint_id=path)

    return save, settle


WAYS: dict[str, Callable[[Training, Path], tuple[Save, Callable[[], None]]]] = {
    "no saving": lambda training, folder: (lambda step: None, lambda: None),
    "chainft synchronous": lambda training, folder: chainft_saving(training, folder, asynchronous=False),
    "chainft asynchronous": lambda training, folder: chainft_saving(training, folder, asynchronous=True),
    "Accelerate save_state": accelerate_saving,
    "torch DCP save": lambda training, folder: dcp_saving(training, folder, asynchronous=False),
    "torch DCP async_save": lambda training, folder: dcp_saving(training, folder, asynchronous=True),
}


def timed(way: str, arguments: argparse.Namespace) -> tuple[float, float]:
    """(seconds that a save held the training up, seconds of all)."""
    training = Training(arguments.device)
    training.step()
    stalls = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        save, settle = WAYS[way](training, Path(temporary))
        start = time.perf_counter()
        for step in range(1, arguments.steps + 1):
            training.step()
            if step % arguments.every == 0:
                begun = time.perf_counter()
                save(step)
                stalls.append(time.perf_counter() - begun)
        settle()
        whole = time.perf_counter() - start
        shutil.rmtree(temporary)
        Path(temporary).mkdir()
    return statistics.median(stalls), whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--every", type=int, default=2, help="steps from one save to the next")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--folder", help="where to write; default: the system's folder for temporary files")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    seen: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for turn in range(arguments.turns):
        for way in list(WAYS)[:: 1 if turn % 2 == 0 else -1]:
            seen[way].append(timed(way, arguments))
            gc.collect()
    stall_s, whole_s = (
        {way: statistics.median(one[column] for one in several) for way, several in seen.items()} for column in (0, 1)
    )
    print(f"{'':22} {'a save, s':>9} {'ratio':>6} {'all, s':>7} {'ratio':>6}")
    for way in WAYS:
        stall, whole = stall_s[way], whole_s[way]
        base = "chainft synchronous"
        print(f"{way:22} {stall:9.3f} {stall / stall_s[base]:6.2f} {whole:7.2f} {whole / whole_s[base]:6.2f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
