"""Does `chainft plan` foresee memory and time of a run on several processes? Predicted against measured, on the CPU.

For each case as many processes as it has ranks join over gloo, divide a model with random weights as training does, and
take three steps through chainft's own loop. A rank's peak is the kernel's high-water mark of resident memory in these
steps above what the process had before the model was made. Its busy time is processor time, the least of the last two
steps; what is predicted for it is computation and update, so that what gloo computes is in the ratio. The rate of the
machine is that of the first case, which is always run. The time of a step, waiting included, means something only where
each rank has a core of its own; else no more than the rate is shared is foreseen.

    python scripts/measure_scale.py               # all cases
    python scripts/measure_scale.py fsdp          # those whose names hold a word
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from measure_plan import ARCHITECTURES, MALLOC, MIB, Case, Rows, config_of, status_bytes, train_alone

ARCHITECTURES["bert-short"] = {**ARCHITECTURES["bert"], "model_type": "bert", "num_hidden_layers": 4}
_TWO, _FOUR = ["launch.num_processes=2"], ["launch.num_processes=4"]
_PIPELINE = ["chain.split=2", "launch.pipeline=2"]


def _case(name: str, *words: str, rows: int = 8) -> Case:
    return Case(name, "bert-short", "ner", ["train.padding_free=false", *words], rows=rows)


CASES = (
    _case("alone", rows=4),
    _case("2 copies", *_TWO),
    _case("2 copies, 2 micro-batches", *_TWO, "train.micro_batch_size=2"),
    _case("2 copies, fsdp", *_TWO, "launch.fsdp=true"),
    _case("2 copies, fsdp, not resharded", *_TWO, "launch.fsdp=true", "launch.reshard_after_forward=false"),
    _case("2 copies, fsdp, recomputed", *_TWO, "launch.fsdp=true", "train.gradient_checkpointing=true"),
    _case("pipeline of 2", *_TWO, *_PIPELINE),
    _case("pipeline of 2, gpipe", *_TWO, *_PIPELINE, "launch.schedule=gpipe"),
    _case("pipeline of 2, first frozen", *_TWO, *_PIPELINE, "chain.stages.stage0.frozen=true"),
    _case("2 copies of a pipeline of 2", *_FOUR, *_PIPELINE, rows=16),
    _case("the same with fsdp", *_FOUR, *_PIPELINE, "launch.fsdp=true", rows=16),
    _case("zbv", *_TWO, "chain.split=4", "launch.pipeline=2", "launch.schedule=zbv"),
)


def main() -> int:
    chosen = [
        CASES[0],
        *(case for case in CASES[1:] if not sys.argv[1:] or any(word in case.name for word in sys.argv[1:])),
    ]
    print(f"{'case':<32}{'rank':>5}{'predicted':>12}{'measured':>12}{'ratio':>8}{'busy':>9}{'measured':>10}{'ratio':>7}"
          f"{'step':>9}{'measured':>10}{'ratio':>7}")  # fmt: skip
    ratios: list[float] = []
    rate = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for case in chosen:
            measured = _measured(case, Path(folder))
            seconds = max(one["seconds"] for one in measured)
            config = config_of(case, Path(folder), tiny=False)
            if not rate:
                alone = predict(config, case, 1.0).places[0]
                rate = alone.compute_s / (measured[0]["busy"] - alone.update_s)
            scale = predict(config, case, rate)
            crowd = _crowd(config)
            places = [place for place in scale.places for _ in range(scale.num_copies)]
            for rank, (place, one) in enumerate(zip(places, measured, strict=True)):
                busy = (place.compute_s + place.update_s) / crowd
                ratio = place.memory.total / one["bytes"]
                ratios.append(ratio)
                step = "" if rank else f"{scale.step_s:>7.2f} s{seconds:>8.2f} s{scale.step_s / seconds:>7.2f}"
                print(f"{case.name if not rank else '':<32}{rank:>5}{place.memory.total / MIB:>8.0f} MiB"
                      f"{one['bytes'] / MIB:>8.0f} MiB{ratio:>8.3f}{busy:>7.2f} s{one['busy']:>8.2f} s"
                      f"{busy / one['busy']:>7.2f}{step}", flush=True)  # fmt: skip
    print(f"memory ratios: {min(ratios):.3f} to {max(ratios):.3f}")
    return int(max(abs(ratio - 1) for ratio in ratios) > 0.15)


def predict(config: Any, case: Case, rate: float) -> Any:
    """The plan on a machine whose processes share `rate` operations a second and core."""
    from chainft.config.plan_config import PlanConfig
    from chainft.plan.followed import Asked, follow
    from chainft.plan.machine import DEVICES, machine_of
    from chainft.plan.optimizer_state import OptimizerForms
    from chainft.plan.scale import make_scale
    from chainft.train.optimizer import build_optimizer

    crowd = _crowd(config)
    settings = PlanConfig(
        machine="cpu", flops_per_s=rate / crowd, attained_fraction=1.0, memory_bytes_per_s=5e9 / crowd
    )
    machine = machine_of(settings, config.launch, DEVICES["cpu"], mixed_precision="no")
    forms = OptimizerForms(lambda module: build_optimizer(module, config.optimizer))
    return make_scale(follow(config, Asked(length=case.length)), forms, machine)


def _crowd(config: Any) -> float:
    """Processes that share a core."""
    return max(1.0, int(config.launch.num_processes) / len(os.sched_getaffinity(0)))


def measure(case: Case, folder: Path) -> dict[str, float]:
    """What this rank takes."""
    from chainft.world import join, leave

    config = config_of(case, folder, tiny=False)
    world = join(num_places=config.launch.pipeline, timeout_s=300, device="cpu")
    train_alone(replace(case, words=case.words[:1]), folder, tiny=True)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = status_bytes("VmRSS")
    learner = _learner(config, case, folder, world)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # Resets VmHWM.
    seconds, busy = [], []
    for step in range(3):
        started, began = time.perf_counter(), time.process_time()
        learner.update(step)
        seconds.append(time.perf_counter() - started)
        busy.append(time.process_time() - began)
    peak = status_bytes("VmHWM") - before
    leave(world)
    return {"bytes": peak, "seconds": min(seconds[1:]), "busy": min(busy[1:])}


def _learner(config: Any, case: Case, folder: Path, world: Any) -> Any:
    """The model divided as a run divides it."""
    from chainft.models.load import load_model
    from chainft.plan.probe import NUM_LABELS, new_task
    from chainft.stages.chain import build_chain
    from chainft.stages.policy import recompute_all
    from chainft.train.learner import Learner
    from chainft.train.optimizer import build_optimizer
    from chainft.train.placing import Placed, pipeline_spans
    from chainft.train.prepare import make_accelerator
    from chainft.train.sharding import Sharding

    launch, task = config.launch, new_task(config, NUM_LABELS)
    chain = build_chain(load_model(config.model, task, seed=1).model, config)
    if config.train.gradient_checkpointing:
        recompute_all(chain.model)
    accelerator = make_accelerator(config, folder)
    store: Any = Rows(task, case.rows * 3, case.length)
    division: Any = None
    if launch.is_pipeline:
        batch = task.collate([store[0]], [0])
        spans = pipeline_spans(launch, chain.model, chain, task, batch)
        division = Placed(chain.model, chain, task, spans, world=world, launch=launch, autocast=accelerator.autocast)
    elif launch.fsdp:
        division = Sharding(chain.model, chain, world, launch)
    return Learner(
        chain.model, task, store, optimizer=build_optimizer(chain.model, config.optimizer, chain),
        accelerator=accelerator, config=config, conduct=chain.conduct(), world=world, division=division,
    )  # fmt: skip


def _measured(case: Case, folder: Path) -> Sequence[dict[str, float]]:
    """What each rank measured, each in a process of its own."""
    count = int(config_of(case, folder, tiny=False).launch.num_processes)
    config_of(case, folder, tiny=True)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    processes = []
    for rank in range(count):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--measure", case.name, str(folder)]
        environment = os.environ | MALLOC | place
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    outputs = [process.communicate()[0] for process in processes]
    if failed := [process.returncode for process in processes if process.returncode]:
        raise SystemExit(f"{case.name}: a rank ended with exit code {failed[0]}")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(next(case for case in CASES if case.name == sys.argv[2]), Path(sys.argv[3]))))
    else:
        sys.exit(main())
