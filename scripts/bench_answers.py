"""A step of training a language model on answers: chainft's against `model(..., labels=...).loss.backward()`.

    python scripts/bench_answers.py --prompt 224 --answer 32 --rows 8

The model is SmolLM2-135M as `model=smollm2` loads it, of which the last blocks and no embeddings are trained. Rows are
random words, a prompt without loss and an answer with it, in lengths around those given. Both ways run in processes of
their own, in turns, with equally many threads; printed are seconds of a step, the peak of memory over that of the
loaded model, both losses, and ratios.
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
    print(f"\n{options.rows} rows of about {options.prompt} + {options.answer} tokens, {options.threads} thread(s)")
    for key in ("step_s", "memory_mib"):
        print(f"  {key}: plain / chainft {means['plain'][key] / means['chainft'][key]:.2f}")
    print(f"  loss: {means['plain']['loss']:.5f} and {means['chainft']['loss']:.5f}")


def measure(options: argparse.Namespace) -> dict[str, float]:
    """One way, three steps; the first one warms up."""
    import torch

    torch.set_num_threads(options.threads)
    model, task, rows = _prepared(options)
    step = STEPS[options.way](model, task, rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times, loss = [], 0.0
    for _ in range(3):
        started = time.perf_counter()
        loss = step()
        times.append(time.perf_counter() - started)
        model.zero_grad()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"step_s": min(times[1:]), "memory_mib": (peak - before) / 1024, "loss": loss}


def _prepared(options: argparse.Namespace) -> tuple[Any, Any, list[Any]]:
    """The model, the task `generate`, and its features."""
    import numpy as np

    from chainft.config.compose import compose
    from chainft.models.load import load_config, load_model, load_tokenizer
    from chainft.registry import find

    config = compose(["task=generate", "model=smollm2"]).config
    task = find("task", "generate", key="task.name")(config.task)
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


def _plain(model: Any, task: Any, rows: list[Any]) -> Callable[[], float]:
    """As a loop over padded batches does it; transformers shifts labels itself."""
    import torch

    batch = task.collate(rows, list(range(len(rows))))
    labels = torch.full_like(batch.inputs["input_ids"], -100, dtype=torch.long)
    labels[:, 1:] = batch.targets["labels"][:, :-1]

    def step() -> float:
        loss = model(**batch.inputs, labels=labels, use_cache=False).loss
        loss.backward()
        return float(loss)

    return step


def _chainft(model: Any, task: Any, rows: list[Any]) -> Callable[[], float]:
    """As the training loop does it."""
    from chainft.infer.forward import Forward
    from chainft.infer.reads import find_reads, probe_batch
    from chainft.stages.deferred_head import find_deferred_head
    from chainft.stages.packing import packing_of

    packing = packing_of(model)
    assert packing is not None
    reads, deferred = find_reads(packing, task, rows), find_deferred_head(model, task, probe_batch(task, rows))
    forward = Forward(model, task, packing, reads, deferred)
    batch = task.collate(rows, list(range(len(rows))))

    def step() -> float:
        loss = task.loss(forward(batch), batch) / task.num_targets(batch)
        loss.backward()
        return float(loss)

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
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--way", choices=STEPS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
