"""One training run from config to report: what `chainft train` does, phase by phase."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from chainft.config.compose import Composed
from chainft.config.launch import launched_size
from chainft.config.run import RunConfig
from chainft.data.batching import Batch
from chainft.data.example import Split
from chainft.errors import ChainftError, ConfigError
from chainft.infer.engine import Engine, score
from chainft.infer.forward import BlockLender, Forward
from chainft.infer.reads import Reads, find_reads, probe_batch
from chainft.metrics.base import check_metric
from chainft.models.device import choose_device, for_batches_of_any_size, one_thread_beside
from chainft.report.console import print_next, print_plan, print_results
from chainft.report.logs import setup_logging
from chainft.report.progress import PhaseProgress, TrainProgress
from chainft.run_folder import RunFolder, clear, create, lock, new_run_path, write_json
from chainft.stages.deferred_head import DeferredHead, find_deferred_head
from chainft.stages.packing import Packing
from chainft.stages.policy import recompute_all
from chainft.train.compiling import check_blocks_are_left, find_compiled, find_graphs, round_hidden
from chainft.train.conclude import conclude
from chainft.train.divide import Division, divide
from chainft.train.evaluations import Evaluations
from chainft.train.finish import scores_to_json
from chainft.train.fit import Fit, FitState
from chainft.train.launch import launch, needs_launch
from chainft.train.learner import Course, Learner
from chainft.train.offload import Offload
from chainft.train.optimizer import build_optimizer
from chainft.train.padding_free import find_packing
from chainft.train.placing import Placed
from chainft.train.plan import make_plan, model_facts
from chainft.train.prefix_cache import PrefixCache, open_prefix
from chainft.train.prepare import Prepared, make_accelerator, order_of, prepare
from chainft.train.recorder import Recorder
from chainft.train.resumed import check_data
from chainft.train.saved import Checkpoint
from chainft.train.shared_checkpoints import SharedCheckpoints
from chainft.train.signals import StopRequest
from chainft.train.word_table import WordTable, stand_ins, word_tables
from chainft.train.written import facts_of, flat, write_config, write_data_facts
from chainft.world import World, join, leave

logger = logging.getLogger(__name__)


def run_training(composed: Composed) -> dict[str, Any]:
    """Train as configured, or go on with a run; returns what `all_results.json` holds.

    With `launch.num_processes` it starts them and waits; started by a launcher, this process is one of them.
    Raises ChainftError for everything that a user can mend; Stopped or Interrupted after saving.
    """
    if needs_launch(composed.config):
        return launch(composed)
    world = _join(composed.config)
    # Each machine looks for the run by itself, at its own time: what the main process saw holds.
    composed = replace(composed, config=replace(composed.config, resume=world.share(composed.config.resume)))
    folder = _open_folder(composed.config, world)
    with ExitStack() as stack:
        if world.is_main:
            stack.enter_context(lock(folder))
            if not composed.config.resume:
                clear(folder)
        setup_logging(folder.log if world.is_main else None)
        stop = stack.enter_context(StopRequest(folder.path))
        try:
            return Session(composed, folder, stop, world).run()
        except Exception as error:
            _write_down(error, folder, world)
            raise


def _join(config: RunConfig) -> World:
    if launched_size() is None:
        return World()
    device = choose_device(config.train.device).type
    if device == "mps" and launched_size() != 1:
        raise ConfigError(
            f"train.device = {config.train.device!r} computes on MPS, on which processes cannot exchange tensors",
            slug="no-device",
            key="train.device",
            help="give train.device=cpu, or leave launch.num_processes away",
        )
    return join(num_places=config.launch.pipeline, timeout_s=config.launch.timeout_s, device=device)


def _write_down(error: Exception, folder: RunFolder, world: World) -> None:
    """Keep the full traceback in `errors.log`; the command prints the short form."""
    if isinstance(error, ChainftError):
        logger.error("%s", error.render(), extra={"file_only": True})
    if folder.path.is_dir():
        rank = "" if world.is_alone else f"rank {world.rank} of {world.size}:\n"
        # What failed may be the disk itself: the first error must be told all the same.
        with suppress(OSError), folder.errors.open("a", encoding="utf-8") as stream:
            stream.write(rank + "".join(traceback.format_exception(error)))


def _open_folder(config: RunConfig, world: World) -> RunFolder:
    """The folder of the run: a new one, or with `resume` the existing one; the main process opens it."""
    if config.resume and config.run:
        return RunFolder(Path(config.run))
    if not world.is_main:
        return RunFolder(Path(world.share()))
    folder = create(Path(config.run) if config.run else new_run_path(config.runs_dir, config.task.name))
    world.share(str(folder.path))
    return folder


class Session:
    """The phases of one run, in order; each leaves its file in the run folder."""

    def __init__(self, composed: Composed, folder: RunFolder, stop: StopRequest, world: World) -> None:
        self.composed = composed
        self.world = world
        self.config = composed.config
        self.folder = folder
        self.stop = stop
        self.prefix = PrefixCache()
        self.facts: Mapping[str, Any] = {}
        """Of the whole model, for the plan."""
        self.division: Division | None = None
        self.packing: Packing | None = None
        self.answers: Reads | None = None
        self.deferred: DeferredHead | None = None
        """Tokens that evaluations read, where their batches run without padding."""

    def run(self) -> dict[str, Any]:
        """All phases; returns the results."""
        accelerator = make_accelerator(self.config, self.folder.path)
        with for_batches_of_any_size(accelerator.device):
            return self._run(accelerator)

    def _run(self, accelerator: Accelerator) -> dict[str, Any]:
        if self.world.is_main:
            write_config(self.composed, self.folder)
        with PhaseProgress() as phase:
            prepared = prepare(
                self.config,
                progress=phase.update,
                poll=self.stop.check,
                folder=self.folder.path,
                world=self.world,
            )
        self.stop.together(self.world)
        if self.world.is_main:
            write_data_facts(prepared, self.folder)
        check_metric(self.config.evaluation.metric, prepared.task)
        if not self.config.launch.offloads:
            prepared.loaded.model.to(accelerator.device)
        with self._display(prepared) as display:
            fit = self._make_fit(prepared, accelerator, display)
            self._write_plan(prepared, fit)
            with nullcontext() if self.config.launch.offloads else one_thread_beside(accelerator.device):
                fit.run()
        results = self._finish(prepared, fit)
        leave(self.world)
        accelerator.end_training()
        return results

    def _display(self, prepared: Prepared) -> TrainProgress:
        return TrainProgress(
            Course.of(self.config, len(prepared.splits.examples["train"])).total_steps,
            every=self.config.train.logging_steps,
            metric=self.config.evaluation.metric or prepared.task.main_metric,
            enabled=self.world.is_main,
        )

    def _make_fit(self, prepared: Prepared, accelerator: Accelerator, display: TrainProgress) -> Fit:
        """The training, at its beginning or where its last whole checkpoint left it."""
        self._set_computation(prepared)
        checkpoints = SharedCheckpoints.of(self.world, self.folder.checkpoints, self.config.checkpoint)
        found = checkpoints.latest() if self.config.resume else None
        if found:
            check_data(found, prepared, self.config)
        other_data = self.config.allow_data_change or (found is not None and found.facts.get("other_data", False))
        tables = [] if other_data else self._word_tables(prepared, accelerator)
        self.facts = model_facts(self.config, prepared)
        self._divide(prepared, accelerator, found)
        learner = self._learner(prepared, accelerator, tables)
        fit = Fit(
            learner,
            checkpoints,
            folder=self.folder,
            recorder=self._recorder(accelerator, display, found),
            stop=self.stop,
            evaluate=self._evaluation(prepared, accelerator, checkpoints),
            examples=prepared.splits.examples["train"],
            facts=facts_of(prepared, other_data=other_data),
        )
        if found:
            fit.restore(found)
            logger.info("going on from %s", found.path.name)
        if self.division is None:
            self._open_prefix(prepared, accelerator, found)
        self._lend_prefix(prepared, learner)
        fit.facts = {**fit.facts, "prefix_cache": self.prefix.is_used}
        if not found:
            fit.state = FitState(before=self._score_before(prepared, accelerator))
        return fit

    def _set_computation(self, prepared: Prepared) -> None:
        """What is recomputed, and in which type blocks hand on their hidden states."""
        if self.config.train.gradient_checkpointing:
            recompute_all(prepared.loaded.model)
        prepared.chain.set_recomputation()
        if self.config.train.hidden_dtype == "bfloat16":
            round_hidden(prepared.loaded.model)

    def _divide(self, prepared: Prepared, accelerator: Accelerator, found: Checkpoint | None) -> None:
        """Let each process have its part of the model, with the weights that it goes on with."""
        if found and self.config.launch.divides and not self.config.launch.is_pipeline:
            prepared.loaded.model.load_state_dict(found.load("model"))
        self.division = divide(
            self.config,
            prepared,
            accelerator,
            world=self.world,
            folder=self.folder.path,
            open_prefix=partial(self._open_prefix, prepared, accelerator, found),
        )

    def _recorder(self, accelerator: Accelerator, display: TrainProgress, found: Checkpoint | None) -> Recorder:
        start = {name: found.state["fit"][name] for name in ("evaluated_step", "train_time_s")} if found else {}
        return Recorder(
            self.folder.metrics if self.world.is_main else None,
            accelerator=accelerator,
            display=display,
            from_step=found.step if found else -1,
            **start,
        )

    def _lend_prefix(self, prepared: Prepared, learner: Learner) -> None:
        """Let training read what is kept of frozen stages. Raises ConfigError for settings that it leaves without effect."""
        lender = learner.forward.lender = self.prefix.lenders.get("train")
        if isinstance(lender, BlockLender):
            check_blocks_are_left(prepared.loaded.model, self.config, lender.start)
        if isinstance(self.division, Offload):
            self.division.lender = self.prefix.of_blocks("train")

    def _learner(self, prepared: Prepared, accelerator: Accelerator, tables: list[WordTable]) -> Learner:
        """What computes the updates of this process, of a model that is divided already."""
        model, store = prepared.loaded.model, prepared.stores["train"]
        forward = self._forward(prepared)
        is_alone = self.world.num_copies == 1 and self.division is None
        find_graphs(model, self.config, store, forward.packing, is_alone=is_alone)
        return Learner(
            model,
            prepared.task,
            store,
            optimizer=build_optimizer(model, self.config.optimizer, prepared.chain, stand_ins(tables)),
            accelerator=accelerator,
            config=self.config,
            conduct=prepared.chain.conduct(),
            order=order_of(prepared),
            tables=tables,
            forward=forward,
            world=self.world,
            division=self.division,
            compiled=find_compiled(model, self.config, store, forward.packing),
        )

    def _word_tables(self, prepared: Prepared, accelerator: Accelerator) -> list[WordTable]:
        """None where training saw other words before: rows of these have state, and change."""
        if accelerator.scaler is not None or self.config.launch.divides:
            return []
        store, pad = prepared.stores["train"], np.array([prepared.task.pad_token_id])
        return word_tables(
            prepared.loaded.model, prepared.chain, self.config.optimizer, [store.column("input_ids"), pad]
        )

    def _open_prefix(self, prepared: Prepared, accelerator: Accelerator, found: Checkpoint | None) -> None:
        """Open what is kept of frozen stages, for the weights with which the training goes on."""
        before, poll = found.facts.get("prefix_cache") if found else None, self.stop.check
        with PhaseProgress() as phase, self.world.main_first("prefix"):
            self.prefix = open_prefix(
                self.config, prepared, accelerator, before=before, progress=phase.update, poll=poll
            )

    def _write_plan(self, prepared: Prepared, fit: Fit) -> None:
        plan = make_plan(
            self.config,
            prepared,
            fit.learner,
            facts=self.facts,
            run=self.folder.path,
            from_step=fit.state.step,
        )
        plan["prefix_cache"] = self.prefix.facts
        if self.world.is_main:
            write_json(self.folder.plan, plan)
            print_plan(plan)
        if self.config.tracker.name != "none":
            fit.learner.accelerator.init_trackers(self.config.tracker.project, config=flat(self.composed.unresolved))

    def _forward(self, prepared: Prepared) -> Forward:
        """How batches go through the model in training; for evaluations it keeps what it found."""
        model, task, store = prepared.loaded.model, prepared.task, prepared.stores["train"]
        packing = find_packing(model, self.config, prepared.chain)
        # fp16 needs its gradients scaled before they are computed, and the loss computes them unscaled.
        is_scaled = self.config.train.mixed_precision == "fp16"
        if not (self.config.launch.divides or is_scaled) and len(store) > 1:
            self.deferred = find_deferred_head(model, task, probe_batch(task, store))
        if packing is None:
            return Forward(model, task, deferred=self.deferred)
        if task.evaluates_by_forward:
            self.packing, self.answers = packing, find_reads(packing, task, store, answers=True)
        return Forward(model, task, packing, find_reads(packing, task, store), self.deferred)

    def _engine(self, prepared: Prepared, accelerator: Accelerator, split: Split) -> Engine:
        forward: Callable[[Batch], Any] | None = None
        if prepared.task.evaluates_by_forward:
            whole = Forward(prepared.loaded.model, prepared.task, self.packing, self.answers)
            whole.lender = self.prefix.lenders.get(split)
            forward = whole
            if isinstance(self.division, Placed):
                forward = self.division.infer
            elif isinstance(self.division, Offload):
                forward = partial(self.division.infer, lender=self.prefix.of_blocks(split))
        return Engine(
            prepared.loaded.model,
            prepared.task,
            self.config.evaluation.batch_size,
            autocast=accelerator.autocast,
            poll=self.stop.check,
            forward=forward,
            deferred=None if prepared.task.evaluates_by_forward else self.deferred,
            follow_up_forward=self.division.infer if isinstance(self.division, Placed | Offload) else None,
            world=self.world,
            retries=not self.config.launch.is_pipeline
            and not (self.config.launch.fsdp and prepared.task.evaluates_by_forward),
            in_step=self.config.launch.fsdp and prepared.task.evaluates_by_forward,
            gathered=None if prepared.task.evaluates_by_forward or self.division is None else self.division.gathered,
            agree=self.stop.agree,
        )

    def _evaluation(
        self, prepared: Prepared, accelerator: Accelerator, checkpoints: SharedCheckpoints
    ) -> Evaluations | None:
        if "validation" not in prepared.stores:
            return None
        return Evaluations(
            prepared, self.folder, checkpoints, partial(self._engine, prepared, accelerator, "validation")
        )

    def _score_before(self, prepared: Prepared, accelerator: Accelerator) -> Mapping[str, Any] | None:
        if not self.config.evaluation.before_training or "test" not in prepared.stores:
            return None
        engine = self._engine(prepared, accelerator, "test")
        with PhaseProgress() as phase:
            predicted = engine.predict_store(
                prepared.splits.examples["test"],
                prepared.stores["test"],
                progress=lambda done, total: phase.update("evaluate test", done, total),
            )
            return scores_to_json(score(engine, predicted))

    def _finish(self, prepared: Prepared, fit: Fit) -> dict[str, Any]:
        """Score the best weights, write the artefacts, and tell how it went."""
        make = partial(self._engine, prepared, fit.learner.accelerator)
        results = conclude(self.config, prepared, fit, folder=self.folder, engine=make)
        if self.world.is_main:
            print_results(results)
            print_next(self.folder.path, self.config.task.name, tested=results["test"] is not None)
        return results
