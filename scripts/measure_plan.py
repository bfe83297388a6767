"""Does `chainft plan` foresee the memory of a training step? Predicted against measured peaks on the CPU.

For each case a process of its own trains two steps of a model with random weights through chainft's own loop; its peak
is the kernel's high-water mark of resident memory (VmHWM) above what it was before the model was made, after one step
of a tiny model of the same architecture, which brings in everything that is loaded once. Freed memory goes back to the
system at once (MALLOC_MMAP_THRESHOLD_), so that the mark shows what is used and not what the allocator keeps.

    python scripts/measure_plan.py            # all cases
    python scripts/measure_plan.py bert t5    # those whose names begin so
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GIB, MIB = 2**30, 2**20
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
TINY = {"hidden_size": 32, "dim": 32, "n_embd": 32, "d_model": 32, "intermediate_size": 64, "hidden_dim": 64,
        "d_ff": 64, "d_kv": 16, "num_hidden_layers": 2, "n_layers": 2, "n_layer": 2, "num_layers": 2,
        "num_attention_heads": 2, "n_heads": 2, "n_head": 2, "num_heads": 2, "num_key_value_heads": 1}  # fmt: skip
_VOCABULARY = {"vocab_size": 30522, "pad_token_id": 0, "bos_token_id": 101, "eos_token_id": 102}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 2048},
    "distilbert": {"dim": 512, "n_layers": 6, "n_heads": 8, "hidden_dim": 2048},
    "gpt2": {"n_embd": 512, "n_layer": 8, "n_head": 8},
    "llama": {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4,
              "intermediate_size": 1536, "tie_word_embeddings": True, "max_position_embeddings": 1024},
    "t5": {"d_model": 384, "d_kv": 64, "d_ff": 1024, "num_layers": 6, "num_heads": 6, "decoder_start_token_id": 0},
}  # fmt: skip
_HALF = ["chain.split=2", "chain.stages.stage0.frozen=true"]
_EVERY_LINK = ["chain=cascade", "chain.stages.second.share.with=first", "chain.stages.second.residual=false",
               "chain.stages.third.receive=all", "chain.stages.third.connector=linear",
               "chain.stages.first.auxiliary.weight=0.3"]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A model and its settings."""

    name: str
    architecture: str
    task: str
    words: Sequence[str] = ()
    rows: int = 8
    length: int = 128


CASES = (
    Case("bert", "bert", "ner"),
    Case("distilbert", "distilbert", "classify"),
    Case("gpt2", "gpt2", "classify"),
    Case("llama", "llama", "generate"),
    Case("t5", "t5", "classify"),
    Case("bert, long", "bert", "ner", rows=4, length=512),
    Case("bert, half frozen", "bert", "ner", _HALF),
    Case("bert, recomputed", "bert", "ner", ["train.gradient_checkpointing=true"], rows=16, length=256),
    Case("bert, bf16", "bert", "ner", ["train.mixed_precision=bf16"]),
    Case("bert, lora", "bert", "ner", ["chain.split=1", "chain.stages.stage0.lora.r=8"]),
    Case("bert, 4 micro-batches", "bert", "ner", ["train.micro_batch_size=4"], rows=16),
    Case("bert, sgd", "bert", "ner", ["optimizer=sgd"]),
    Case("llama, adafactor", "llama", "generate", ["optimizer=adafactor"]),
    Case("gpt2, shared", "gpt2", "classify", ["chain.split=2", "chain.stages.stage1.share.with=stage0"]),
    Case("cascade", "distilbert", "ner", ["chain=cascade"]),
    Case("cascade, every link", "distilbert", "ner", _EVERY_LINK),
    Case("cascade, first frozen", "distilbert", "ner", ["chain=cascade", "chain.stages.first.frozen=true"]),
)


def main() -> int:
    chosen = [case for case in CASES if len(sys.argv) == 1 or case.name.startswith(tuple(sys.argv[1:]))]
    print(f"{'case':<24}{'predicted':>12}{'measured':>12}{'ratio':>8}")
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for case in chosen:
            predicted = predict(case, Path(folder))
            measured = _in_process(case, Path(folder))
            worst = max(worst, abs(predicted / measured - 1))
            print(f"{case.name:<24}{predicted / GIB:>8.3f} GiB{measured / GIB:>8.3f} GiB{predicted / measured:>8.3f}",
                  flush=True)  # fmt: skip
    print(f"worst difference {worst:.1%}")
    return int(worst > 0.1)


def predict(case: Case, folder: Path) -> int:
    """The peak that `chainft plan` prints."""
    from chainft.plan.budget import Asked, make_budget
    from chainft.train.optimizer import build_optimizer

    config = config_of(case, folder, tiny=False)
    asked = Asked(length=case.length)
    return make_budget(config, lambda module: build_optimizer(module, config.optimizer), asked).peak.total


def measure(case: Case, folder: Path) -> int:
    """The peak of resident memory in this process while it trains two steps."""
    train_alone(case, folder, tiny=True)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # Resets VmHWM.
    before = status_bytes("VmRSS")
    train_alone(case, folder, tiny=False)
    return status_bytes("VmHWM") - before


def train_alone(case: Case, folder: Path, *, tiny: bool) -> None:
    """Train two steps in this process; `tiny`: of a tiny model of the same architecture."""
    from chainft.models.load import load_model
    from chainft.plan.probe import NUM_LABELS, new_task
    from chainft.stages.chain import build_chain
    from chainft.stages.links_load import build_linked
    from chainft.stages.policy import recompute_all
    from chainft.train.learner import Learner
    from chainft.train.optimizer import build_optimizer
    from chainft.train.prepare import make_accelerator

    config = config_of(case, folder, tiny=tiny)
    task = new_task(config, NUM_LABELS)
    linked = config.chain.is_linked
    loaded = build_linked(config, task, seed=1) if linked else load_model(config.model, task, seed=1)
    chain = build_chain(loaded.model, config)
    if config.train.gradient_checkpointing:
        recompute_all(chain.model)
    store: Any = Rows(task, case.rows, case.length)
    learner = Learner(
        chain.model,
        task,
        store,
        optimizer=build_optimizer(chain.model, config.optimizer, chain),
        accelerator=make_accelerator(config, folder),
        config=config,
        conduct=chain.conduct(),
    )
    for step in range(2):
        learner.update(step)


class Rows:
    """Features of one length, as a store of tokenised examples holds them."""

    def __init__(self, task: Any, rows: int, length: int) -> None:
        import numpy as np

        from chainft.plan.probe import make_row

        self.row = make_row(task, length)
        self.lengths = np.full(rows, length)
        self.first_of = np.arange(rows + 1)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Any:
        return self.row


def config_of(case: Case, folder: Path, *, tiny: bool) -> Any:
    """The config of a case, on a folder that has no weights."""
    from chainft.config.compose import compose

    words = [f"task={case.task}", f"model={_model(case, folder, tiny=tiny)}", "model.pretrained=false"]
    words += [f"train.batch_size={case.rows}", "train.num_train_epochs=2", "train.device=cpu"]
    return compose([*words, *case.words]).config


def _model(case: Case, folder: Path, *, tiny: bool) -> Path:
    """A folder with the config of the architecture and the starter model's tokenizer."""
    from chainft.config.run import ModelConfig
    from chainft.models.weights import locate

    path = folder / f"{case.architecture}{'-tiny' if tiny else ''}"
    if not path.is_dir():
        path.mkdir()
        sizes = ARCHITECTURES[case.architecture]
        chosen = {name: TINY.get(name, value) for name, value in sizes.items()} if tiny else sizes
        content = {"model_type": case.architecture, **_VOCABULARY, **chosen}
        (path / "config.json").write_text(json.dumps(content), encoding="utf-8")
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
            source = Path(locate(ModelConfig()).name) / name
            if source.is_file():
                shutil.copy(source, path)
    return path


def _in_process(case: Case, folder: Path) -> int:
    command = [sys.executable, __file__, "--measure", case.name, str(folder)]
    done = subprocess.run(command, env=os.environ | MALLOC, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


def status_bytes(name: str) -> int:
    """Bytes of an entry of /proc/self/status."""
    return next(_numbers(name)) * 1024


def _numbers(name: str) -> Iterator[int]:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    yield from (int(found) for found in re.findall(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(measure(next(case for case in CASES if case.name == sys.argv[2]), Path(sys.argv[3])))
    else:
        sys.exit(main())
