"""A step of training a language model on answers: chainft's against `model(..., labels=...).loss.backward()`.

    python scripts/bench_answers.py --prompt 224 --answer 32 --rows 8

The model is SmolLM2-135M as `model=smollm2` loads it, or with `--random` one of its sizes, of which the last blocks and
no embeddings are trained. Rows are random words, a prompt without loss and an answer with it, in lengths around those
given. Both ways run in processes of their own, in turns, with equally many threads; printed are seconds of a step, the
peak of memory over that of the loaded model, both losses, and ratios. On a GPU both compute under autocast to bfloat16,
and chainft compiles the blocks:

    python scripts/bench_answers.py --device cuda --random --trained 30 --rows 32
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any


def main() -> None:
    options = _options()
    if options.way:
        print(json.dumps(measure(options)))
        return
    found: dict[str, list[dict[str, float]]] = {"plain": [], "chainft": []}
    for number in range(options.rounds):
        for way in list(found)[:: 1 if number % 2 == 0 else -1]:
            found[way].append(_in_own_process(way))
            print(f"{way:8} round {number + 1}: " + "  ".join(f"{k} {v:.4g}" for k, v in found[way][-1].items()))
    means = {way: {key: statistics.mean(one[key] for one in runs) for key in runs[0]} for way, runs in found.items()}
    print(
        f"\n{options.device}, {options.rows} rows of about {options.prompt} + {options.answer} tokens, {options.threads} thread(s)"
    )
    for key in ("step_s", "memory_mib"):
        print(f"  {key}: plain / chainft {means['plain'][key] / means['chainft'][key]:.2f}")
    print(f"  loss: {means['plain']['loss']:.5f} and {means['chainft']['loss']:.5f}")


def measure(options: argparse.Namespace) -> dict[str, float]:
    """One way, three steps; the first one warms up."""
    import torch

    torch.set_num_threads(options.threads)
    model, task, rows = _prepared(options)
    model.to(options.device)
    step = STEPS[options.way](model, task, rows)
    before = _memory_mib(options.device, peak=False)
    times, loss = [], 0.0
    for _ in range(3 if options.device == "cpu" else 20):
        started = time.perf_counter()
        with torch.autocast(options.device, torch.bfloat16, enabled=options.device == "cuda"):
            found = step()
        found.backward()
        loss = float(found)
        times.append(time.perf_counter() - started)
        model.zero_grad()
    return {"step_s": min(times[1:]), "memory_mib": _memory_mib(options.device, peak=True) - before, "loss": loss}


def _memory_mib(device: str, *, peak: bool) -> float:
    """Of the process, its peak so far; of a GPU, what its tensors take now or took at most."""
    import torch

    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return (torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()) / 2**20


def _prepared(options: argparse.Namespace) -> tuple[Any, Any, list[Any]]:
    """The model, the task `generate`, and its features."""
    import numpy as np

    from chainft.config.compose import compose
    from chainft.models.load import load_config, load_model, load_tokenizer
    from chainft.registry import find

    config = compose(["task=generate", *([] if options.random else ["model=smollm2"])]).config
    task = find("task", "generate", key="task.name")(config.task)
    if options.random:
        model = _of_random_weights().train()
        task.adapt(model.config)
        task.tokenizer = SimpleNamespace(pad_token_id=0)  # All that a batch needs of it.
    else:
        task.adapt(load_config(config.model))
        task.prepare(load_tokenizer(config.model, needs_offsets=task.needs_offsets), max_length=1024)
        model = load_model(config.model, task, seed=1).model.train()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for block in model.model.layers[-options.trained :]:
        block.requires_grad_(True)
    drawn = np.random.default_rng(0)
    rows = []
    for _ in range(options.rows):
        prompt, answer = (int(drawn.integers(size // 2, size * 3 // 2)) for size in (options.prompt, options.answer))
        ids = drawn.integers(100, 40000, prompt + answer).astype(np.int32)
        labels = np.full(prompt + answer, -100, np.int64)
        labels[prompt - 1 : -1] = ids[prompt:]
        rows.append({"input_ids": ids, "labels": labels, "source_length": np.array([prompt], np.int32)})
    return model, task, rows


def _of_random_weights() -> Any:
    """A model of the sizes of SmolLM2-135M (its config.json)."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rope_theta=100000.0,
        tie_word_embeddings=True,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def _plain(model: Any, task: Any, rows: list[Any]) -> Callable[[], Any]:
    """As a loop over padded batches does it; transformers shifts labels itself."""
    import torch

    batch = task.collate(rows, list(range(len(rows)))).to(model.device)
    labels = torch.full_like(batch.inputs["input_ids"], -100, dtype=torch.long)
    labels[:, 1:] = batch.targets["labels"][:, :-1]

    def step() -> Any:
        return model(**batch.inputs, labels=labels, use_cache=False).loss

    return step


def _chainft(model: Any, task: Any, rows: list[Any]) -> Callable[[], Any]:
    """As the training loop does it."""
    import torch

    from chainft.infer.forward import Forward
    from chainft.infer.reads import find_reads, probe_batch
    from chainft.stages.compiled import Compiled
    from chainft.stages.deferred_head import find_deferred_head
    from chainft.stages.packing import packing_of

    packing = packing_of(model)
    assert packing is not None
    reads, deferred = find_reads(packing, task, rows), find_deferred_head(model, task, probe_batch(task, rows))
    forward = Forward(model, task, packing, reads, deferred)
    batch = task.collate(rows, list(range(len(rows))))
    num_targets, on_device = task.num_targets(batch), batch.to(model.device)
    if model.device.type == "cuda":
        packing.try_kernel(torch.bfloat16)
        ExitStack().enter_context(Compiled(model, longest=int(batch.lengths.max())).active())

    def step() -> Any:
        return task.loss(forward(on_device), on_device) / num_targets

    return step


STEPS = {"plain": _plain, "chainft": _chainft}


def _in_own_process(way: str) -> dict[str, float]:
    command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{way} failed:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=224, help="tokens without loss")
    parser.add_argument("--answer", type=int, default=32, help="tokens with loss")
    parser.add_argument("--trained", type=int, default=6, help="blocks of 30 that are trained")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--random", action="store_true", help="a model of the same sizes without its weights")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--way", choices=STEPS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
