"""Starts the processes of a run through torch's elastic launcher, passes signals on, and says why one failed.

The parent composes and checks, the workers (`worker`) get the resolved config and never see Hydra. They are forks of one
process that has imported everything, as the runs of a sweep are. A process that dies or hangs ends the attempt; the next
one goes on from the last checkpoint, as often as `launch.max_restarts` allows. Torch is imported in here when needed.
"""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from multiprocessing import forkserver
from pathlib import Path
from types import FrameType
from typing import Any

from chainft.config.compose import Composed
from chainft.config.launch import LaunchConfig
from chainft.config.launch_rules import LAUNCH_RULES
from chainft.config.run import RunConfig
from chainft.errors import ConfigError, DistributedError
from chainft.run_folder import RunFolder, new_run_path
from chainft.train.outcomes import Failure, first_cause, read_hangs, read_outcomes, request_file, started_here
from chainft.train.signals import HANDLED, STOPPING, say

logger = logging.getLogger(__name__)

DEFAULT_PORT = 29400
SHUTDOWN_S = 15
"""How long the launcher lets the others end by themselves when one process failed."""
PRELOADED = ("chainft.train.worker", "transformers.models.auto.modeling_auto", "seqeval.metrics")


def needs_launch(config: RunConfig) -> bool:
    """Whether this process is to start the workers: several are wanted, and no launcher started this one."""
    wanted = config.launch.num_processes != 1 or config.launch.num_machines > 1
    return wanted and "RANK" not in os.environ


def launch(composed: Composed) -> dict[str, Any]:
    """Run the workers to their end; returns what `all_results.json` holds.

    Raises the ChainftError of the worker that failed first, DistributedError for one that died or hung.
    """
    composed = _resolved(composed)
    settings = composed.config.launch
    for attempt in range(settings.max_restarts + 1):
        with tempfile.TemporaryDirectory(prefix="chainft-") as exchange, _passing_signals(Path(exchange)):
            failure = _attempt(composed, Path(exchange), attempt)
            was_asked_to_stop = request_file(Path(exchange)).is_file()
        if failure is None:
            return _results(composed.config)
        if not failure.is_repeatable or was_asked_to_stop or attempt == settings.max_restarts:
            raise failure.error
        logger.warning("%s; starting again (%d of %d)", failure.error, attempt + 1, settings.max_restarts)
        composed = _going_on(composed)
    raise AssertionError("unreachable")


def _resolved(composed: Composed) -> Composed:
    """With the number of processes and the run folder fixed, so that all workers have the same."""
    config = composed.config
    count = config.launch.num_processes
    if count == "auto":
        import torch

        count = max(1, torch.cuda.device_count()) * config.launch.num_machines
    config = replace(config, launch=replace(config.launch, num_processes=count))
    if problems := [problem for rule in LAUNCH_RULES for problem in rule(config)]:
        raise ConfigError.of(problems)  # What `auto` left open before.
    _check_devices(config, count)
    run = config.run or str(new_run_path(config.runs_dir, config.task.name))
    if config.run is None and config.launch.num_machines > 1:
        raise ConfigError(
            "launch.num_machines > 1 needs a run folder that all machines know",
            slug="missing-key",
            key="run",
            help="give run=FOLDER on a file system that all machines see, the same on each",
        )
    return replace(composed, config=replace(config, run=run))


def _check_devices(config: RunConfig, count: int) -> None:
    """A GPU serves one process of a run."""
    import torch

    a_machine = count // config.launch.num_machines
    wants_gpu = config.train.device == "cuda" or (config.train.device == "auto" and torch.cuda.is_available())
    if wants_gpu and a_machine > torch.cuda.device_count():
        raise ConfigError(
            f"launch.num_processes = {count} needs {a_machine} GPUs here, and there are {torch.cuda.device_count()}",
            slug="no-device",
            key="launch.num_processes",
            help="give launch.num_processes=auto, or train.device=cpu",
        )


def _attempt(composed: Composed, exchange: Path, attempt: int) -> Failure | None:
    """Run the workers once; None where all did what they should."""
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import elastic_launch

    from chainft.train.worker import Surroundings, work

    for name in (
        "torch.distributed.elastic",
        "torch.distributed.launcher",
        "torchelastic-events-null",
        "torch.multiprocessing.spawn",
    ):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # What they would tell is told by `first_cause`.
    if sys.platform == "linux":
        _start_forkserver()
    try:
        config = _elastic_config(composed.config, exchange, attempt)
        elastic_launch(config, work)(composed, str(exchange), Surroundings.now())
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode
        return first_cause(
            read_outcomes(exchange),
            composed.config,
            reported=(int(rank), int(code)),
            here=started_here(exchange),
            hung=read_hangs(exchange),
        )
    except (RendezvousError, DistError) as error:
        return Failure(_not_met(composed.config, attempt, error), is_repeatable=False)
    for outcome in read_outcomes(exchange).values():
        if outcome.error is not None:
            raise outcome.error
    return None


def _start_forkserver() -> None:
    """Start what the workers are forks of, deaf to what a whole group of processes may be told: it must outlive them."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(PRELOADED))
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        forkserver.ensure_running()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _not_met(config: RunConfig, attempt: int, error: Exception) -> DistributedError:
    """The processes did not find each other."""
    launch, endpoint = config.launch, _endpoint(config.launch, attempt)
    reason = str(error.__cause__ or error).splitlines()[0]
    if launch.num_machines == 1:
        message, help = (
            f"cannot listen at {endpoint}: {reason}",
            "leave launch.main_process_port away, or take another",
        )
    else:
        message = f"machine {launch.machine_rank} of {launch.num_machines} met no other ones at {endpoint}: {reason}"
        help = (
            f"start the same command on each machine within launch.timeout_s = {launch.timeout_s:g} s; all must reach "
            "launch.main_process_ip at launch.main_process_port"
        )
    key = "launch.main_process_port" if launch.num_machines == 1 else "launch.main_process_ip"
    return DistributedError(message, slug="not-met", key=key, help=help)


def _elastic_config(config: RunConfig, exchange: Path, attempt: int) -> Any:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig as ElasticConfig

    settings = config.launch
    assert isinstance(settings.num_processes, int)
    known = {field.name for field in fields(ElasticConfig)}
    # torch 2.11 takes these two from the environment alone.
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGHUP,SIGQUIT"
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(SHUTDOWN_S)
    newer: dict[str, Any] = {"signals_to_handle": "SIGHUP,SIGQUIT", "shutdown_timeout": SHUTDOWN_S}
    return ElasticConfig(
        min_nodes=settings.num_machines,
        max_nodes=settings.num_machines,
        nproc_per_node=settings.num_processes // settings.num_machines,
        run_id=f"chainft-{RunFolder(Path(str(config.run))).path.name}-{attempt}",
        # Static: ranks follow `machine_rank`, and everyone uses the address that was given.
        rdzv_backend="c10d" if settings.num_machines == 1 else "static",
        rdzv_endpoint=_endpoint(settings, attempt),
        rdzv_configs={"is_host": True}
        if settings.num_machines == 1
        else {"rank": settings.machine_rank, "timeout": math.ceil(settings.timeout_s)},
        max_restarts=0,
        monitor_interval=0.1,
        start_method="forkserver" if sys.platform == "linux" else "spawn",
        logs_specs=DefaultLogsSpecs(log_dir=str(exchange)),
        local_addr="127.0.0.1" if settings.num_machines == 1 else None,
        **{name: value for name, value in newer.items() if name in known},
    )


def _endpoint(settings: LaunchConfig, attempt: int) -> str:
    """Of several machines, each attempt has a port of its own: another one may still hold that of the last."""
    if settings.num_machines == 1:
        return f"127.0.0.1:{settings.main_process_port or 0}"
    return f"{settings.main_process_ip}:{(settings.main_process_port or DEFAULT_PORT) + attempt}"


@contextmanager
def _passing_signals(exchange: Path) -> Iterator[None]:
    """Pass SIGINT, SIGTERM and SIGUSR1 on to the workers, which save, end, and say so."""
    told: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        request_file(exchange).write_text(str(number))  # For those that have not begun yet.
        if not told:
            say(STOPPING)
        told.append(number)
        for file in exchange.glob("*.pid"):
            with suppress(OSError, ValueError):
                os.kill(int(file.read_text()), number)

    before = {number: signal.signal(number, pass_on) for number in HANDLED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _going_on(composed: Composed) -> Composed:
    """The same run from its last checkpoint, or from its beginning where it has none; its folder is there, perhaps."""
    is_there = RunFolder(Path(str(composed.config.run))).path.is_dir()
    return replace(composed, config=replace(composed.config, resume=composed.config.resume or is_there))


def _results(config: RunConfig) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(RunFolder(Path(str(config.run))).results.read_text(encoding="utf-8"))
    return loaded
