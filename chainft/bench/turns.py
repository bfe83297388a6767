"""Runs the two tools by turns, each in a process of its own, and puts what they measured side by side.

Light: torch is only in the processes that are started, so that their memory is their own.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from chainft.config.run import RunConfig
from chainft.errors import ChainftError, DistributedError, Problem

TOOLS = ("Trainer", "chainft")
RATIOS: Mapping[str, bool] = {"step_s": True, "tokens_per_s": False, "whole_s": True, "memory_bytes": True}
"""What is compared -> whether less is better; every ratio is above 1 where chainft does better."""
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Bench:
    """What is compared, and how often."""

    config: RunConfig
    words: tuple[str, ...]
    """The config again, as the command line gave it."""
    steps: int
    rounds: int
    best: bool = False
    """Whether the Trainer has its fastest settings."""
    config_dir: Path | None = None
    config_name: str = "train"


@dataclass(frozen=True)
class Turn:
    """One training by one tool."""

    seed: int
    steps: int
    step_s: float
    """Mean seconds of a step, without those that warm up: see `skipped`."""
    tokens_per_s: float
    """Tokens without padding, over the same steps."""
    tokens_per_step: float
    whole_s: float
    """The whole command, from start to exit."""
    memory_bytes: int
    """Most memory of the process; on a GPU, of the GPU."""
    score: float | None
    examples: Mapping[str, int]
    tokens: Mapping[str, int]
    device: str


@dataclass(frozen=True)
class Spread:
    """A ratio over the rounds."""

    mean: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.mean(values), min(values), max(values))


@dataclass(frozen=True)
class Compared:
    """What was measured."""

    task: str
    model: str
    metric: str
    scored: str | None
    """The split whose score is told."""
    batch_size: int
    settings: Mapping[str, Any]
    """Those of the baseline."""
    turns: Mapping[str, Sequence[Turn]]
    """Tool -> its turn of each round."""
    ratios: Mapping[str, Spread]
    peak: Mapping[str, Any]
    """The float32 matrix-multiply peak and the share of it that chainft's steps reach; or `unknown`, and why."""
    prefix_cache: bool
    """Whether chainft read the outputs of frozen stages from disk."""
    rounds_hidden: bool
    """Whether chainft hands on hidden states in bfloat16, which the Trainer has no setting for."""
    runs_without_dropout: bool
    """Whether chainft runs frozen stages without dropout, which the Trainer has no setting for."""

    def to_json(self) -> dict[str, Any]:
        return {"format": 1, **asdict(self)}


def run_bench(bench: Bench, tell: Tell) -> Compared:
    """All turns. Raises ChainftError for mistakes of the user's and for a process that failed."""
    with tempfile.TemporaryDirectory(prefix="chainft-bench-") as temporary:
        folder = Path(temporary)
        tell("reading the data")
        facts = _export(bench, folder)
        turns: dict[str, list[Turn]] = {tool: [] for tool in TOOLS}
        plan: Mapping[str, Any] = {}
        products: list[dict[str, Any]] = []
        for number in range(bench.rounds):
            for tool in TOOLS if number % 2 == 0 else TOOLS[::-1]:
                tell(f"round {number + 1} of {bench.rounds}: {tool}, {bench.steps} steps")
                seed = bench.config.seed + number
                if tool == "Trainer":
                    turns[tool].append(_trainer(facts["settings"], folder, seed))
                else:
                    turn, plan = _chainft(bench, facts, folder, seed)
                    turns[tool].append(turn)
            if "unknown" not in facts["blocks"]:
                tell(f"round {number + 1} of {bench.rounds}: matrix products")
                products.append(_products(facts, turns["chainft"][-1], folder))
        _check_alike(turns)
        peak = _peak(facts["blocks"], turns["chainft"], products, prefix=_uses_prefix(plan))
        return _compared(bench, facts, turns, peak=peak, prefix=_uses_prefix(plan))


def _compared(
    bench: Bench,
    facts: Mapping[str, Any],
    turns: Mapping[str, Sequence[Turn]],
    *,
    peak: Mapping[str, Any],
    prefix: bool,
) -> Compared:
    settings = facts["settings"]
    return Compared(
        task=bench.config.task.name,
        model=bench.config.model.path,
        metric=settings["metric"],
        scored=_scored(facts),
        batch_size=settings["batch_size"],
        settings={name: value for name, value in settings.items() if name not in ("data", "seed")},
        turns=turns,
        ratios={name: _ratio(turns, name, less=less) for name, less in RATIOS.items()},
        peak=peak,
        prefix_cache=prefix,
        rounds_hidden=bench.config.train.hidden_dtype == "bfloat16",
        runs_without_dropout=any(stage.eval_mode for stage in bench.config.chain.stages.values()),
    )


def _ratio(turns: Mapping[str, Sequence[Turn]], name: str, *, less: bool) -> Spread:
    pairs = zip(turns["Trainer"], turns["chainft"], strict=True)
    values = [(getattr(theirs, name), getattr(ours, name)) for theirs, ours in pairs]
    return Spread.of([theirs / ours if less else ours / theirs for theirs, ours in values])


def _scored(facts: Mapping[str, Any]) -> str | None:
    return next((split for split in ("test", "validation") if split in facts["examples"]), None)


def _check_alike(turns: Mapping[str, Sequence[Turn]]) -> None:
    """Raise DistributedError where the tools did not do the same work; nothing of it would be comparable."""
    for theirs, ours in zip(turns["Trainer"], turns["chainft"], strict=True):
        for what in ("steps", "examples", "device"):
            if getattr(theirs, what) != getattr(ours, what):
                raise DistributedError(
                    f"the tools did not do the same: {what} are {getattr(theirs, what)} for the Trainer and "
                    f"{getattr(ours, what)} for chainft",
                    slug="unlike",
                    help="set train.device, or report this",
                )


# Processes ------------------------------------------------------------------------------------------


def _export(bench: Bench, folder: Path) -> dict[str, Any]:
    request = {
        "words": list(bench.words),
        "config_dir": str(bench.config_dir) if bench.config_dir else None,
        "config_name": bench.config_name,
        "folder": str(folder),
        "steps": bench.steps,
        "best": bench.best,
    }
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
    _run(["chainft.bench.export", str(folder / "request.json")], folder, "reading the data")
    facts: dict[str, Any] = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    return facts


def _trainer(settings: Mapping[str, Any], folder: Path, seed: int) -> Turn:
    file = folder / "trainer.json"
    file.write_text(json.dumps({**settings, "seed": seed}), encoding="utf-8")
    done = _run(["chainft.bench.trainer_baseline", str(file)], folder, "the Trainer baseline")
    found = json.loads(done.output.strip().splitlines()[-1])
    first = skipped(found["steps"], found["device"])
    seconds, tokens = sum(found["step_s"][first:]), sum(found["step_tokens"][first:])
    return Turn(
        seed=seed,
        steps=found["steps"],
        step_s=seconds / (found["steps"] - first),
        tokens_per_s=tokens / seconds,
        tokens_per_step=tokens / (found["steps"] - first),
        whole_s=done.seconds,
        memory_bytes=found["memory_bytes"] or done.memory_bytes,
        score=found["score"],
        examples=found["examples"],
        tokens=found["tokens"],
        device=found["device"],
    )


def _chainft(bench: Bench, facts: Mapping[str, Any], folder: Path, seed: int) -> tuple[Turn, Mapping[str, Any]]:
    """`chainft train` with an empty cache, so that tokenising counts; and its plan."""
    run, cache = folder / "run", folder / "cache"
    for old in (run, cache):
        shutil.rmtree(old, ignore_errors=True)
    done = _run(["chainft", "--errors", "json", "train", *_words(bench, run, cache, seed)], folder, "chainft train")
    plan, results = _read(run / "plan.json"), _read(run / "all_results.json")
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [one for one in map(json.loads, lines) if one["kind"] == "train"]
    on_gpu = plan["device"].startswith("cuda")
    first = skipped(len(steps), plan["device"])
    counted = steps[first - 1 :]
    seconds = [after["time_s"] - before["time_s"] for before, after in pairwise(counted)]
    tokens = sum(one["tokens_per_s"] * time_s for one, time_s in zip(counted[1:], seconds, strict=True))
    splits = {name: one for name, one in plan["data"].items() if name != "labels"}
    turn = Turn(
        seed=seed,
        steps=results["steps"],
        step_s=sum(seconds) / len(seconds),
        tokens_per_s=tokens / sum(seconds),
        tokens_per_step=tokens / len(seconds),
        whole_s=done.seconds,
        memory_bytes=max(one["memory_bytes"] for one in steps) if on_gpu else done.memory_bytes,
        score=_score(results, facts),
        examples={name: one["examples"] for name, one in splits.items()},
        tokens={name: one["tokens"] for name, one in splits.items()},
        device=plan["device"].partition(":")[0],
    )
    return turn, plan


def skipped(steps: int, device: str) -> int:
    """How many first steps do not count: the first, and on a GPU a quarter, in which kernels are chosen and compiled."""
    return max(1, steps // 4) if device.startswith("cuda") else 1


def _words(bench: Bench, run: Path, cache: Path, seed: int) -> list[str]:
    """The user's words, and after them what makes the run as long as the baseline's and leaves out what that lacks."""
    words = [*bench.words, f"train.max_steps={bench.steps}", f"seed={seed}", "evaluation.before_training=false"]
    if bench.config.evaluation.patience is not None:
        words += ["evaluation.patience=null", "evaluation.min_delta=0.0"]
    if bench.config.train.compile == "auto":
        words += ["train.compile=false"]  # Nor does the baseline.
    words += [f"run='{run}'", f"data.cache_dir='{cache}'"]
    flags = ["--config-dir", str(bench.config_dir)] if bench.config_dir else []
    return [*flags, "--config-name", bench.config_name, *words]


def _score(results: Mapping[str, Any], facts: Mapping[str, Any]) -> float | None:
    scored = _scored(facts)
    if scored is None:
        return None
    scores = results["test"]["after"] if scored == "test" else results["validation"]
    score: float | None = scores["values"][facts["settings"]["metric"]]
    return score


def _products(facts: Mapping[str, Any], turn: Turn, folder: Path) -> dict[str, Any]:
    """Operations a second of matrix products of the sizes of a step."""
    asked = {"rows": max(1, round(turn.tokens_per_step)), "forms": facts["blocks"]["forms"], "device": turn.device}
    asked["dtype"] = "bfloat16" if facts["settings"]["bf16"] else "float32"
    done = _run(["chainft.bench.matmul", json.dumps(asked)], folder, "measuring matrix products")
    found: dict[str, Any] = json.loads(done.output.strip().splitlines()[-1])
    return found


def _peak(
    blocks: Mapping[str, Any], turns: Sequence[Turn], products: Sequence[Mapping[str, Any]], *, prefix: bool
) -> Mapping[str, Any]:
    """6 operations a parameter in blocks and token, 2 in frozen ones; none where their outputs are read from disk.

    The fastest round's products are the peak: others on the machine only slow them down.
    """
    if "unknown" in blocks:
        return blocks
    best = max(products, key=lambda one: float(one["flops_per_s"]))
    a_token = 6 * blocks["trained"] + (0 if prefix else 2 * blocks["frozen"])
    return {
        **best,
        "flops_per_token": a_token,
        "trained_parameters": blocks["trained"],
        "frozen_parameters": blocks["frozen"],
        "share": asdict(Spread.of([a_token * turn.tokens_per_s / best["flops_per_s"] for turn in turns])),
    }


def _uses_prefix(plan: Mapping[str, Any]) -> bool:
    return bool((plan["prefix_cache"] or {}).get("used"))


@dataclass(frozen=True)
class Done:
    """A process that ended well."""

    output: str
    seconds: float
    memory_bytes: int


def _run(command: Sequence[str], folder: Path, what: str) -> Done:
    """`python -m COMMAND`. Raises the ChainftError that it reports as JSON, or DistributedError for another failure."""
    environment = {"CUDA_VISIBLE_DEVICES": "0", **os.environ}  # The Trainer would take all GPUs there are.
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", *command], stdout=out, stderr=err, env=environment)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    output, errors = ((folder / name).read_text(encoding="utf-8", errors="replace") for name in ("stdout", "stderr"))
    if process.returncode:
        if os.environ.get("CHAINFT_DEBUG") == "1":
            sys.stderr.write(errors)
        raise _failure(what, process.returncode, errors.strip().splitlines())
    scale = 1 if sys.platform == "darwin" else 1024
    return Done(output, seconds, usage.ru_maxrss * scale)


def _failure(what: str, code: int, lines: Sequence[str]) -> ChainftError:
    """The error of a process, from its last line."""
    last = lines[-1] if lines else ""
    if last.startswith('{"exit_code"'):
        told = json.loads(last)
        areas = {kind.area: kind for kind in ChainftError.__subclasses__()}
        kind = areas.get(told["errors"][0].pop("area"), ChainftError)
        problems = [Problem(**{name: one[name] for name in one if name != "area"}) for one in told["errors"]]
        return kind.of(problems)
    return DistributedError(
        f"{what} failed with exit code {code}: {last or 'nothing was said'}",
        slug="process-failed",
        help="CHAINFT_DEBUG=1 shows all that it said",
    )


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
