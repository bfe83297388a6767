"""Progress of long work: a live line on a terminal, plain lines with the time elsewhere.

`TrainProgress` shows updates and evaluations, `PhaseProgress` whatever counts up to a total. They share one
live display and the console of the log, so that neither overwrites the other. In other processes than the
first, and with `--quiet`, `enabled=False` makes them silent.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.text import Text

from chainft.metrics._direction import falls
from chainft.report.console import messages
from chainft.report.live import Bar, is_live, live_on
from chainft.report.words import duration, number, printable, short, size

logger = logging.getLogger(__name__)

PLAIN_SECONDS = 10.0
"""Without a terminal, phases tell at most this often how far they are."""
_SHORT_PHASE = 1.0
"""A phase that took less is not worth a line."""
_FEW_VALUES = 5

Clock = Callable[[], float]


class TrainProgress:
    """Shows each step's record (a line of `metrics.jsonl`) and each evaluation's.

    On a terminal the live line moves from the first `step` until `close`; use it as a context manager, so that
    it is closed when training fails. Elsewhere a line comes every `every` steps. `metric` chooses the score
    that evaluations show first, and of which the best is pointed out.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        every: int = 10,
        metric: str | None = None,
        enabled: bool = True,
        console: Console | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.total_steps = total_steps
        self.every = max(1, every)
        self.metric = metric
        self.enabled = enabled
        self.console = console or messages()
        self._clock = clock
        self._losses: deque[float] = deque(maxlen=self.every)
        self._start: tuple[int, float] | None = None
        self._best: float | None = None
        self._bar: Bar | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the live line away; harmless when called twice."""
        if self._bar:
            self._bar.close()
            self._bar = None

    def step(self, record: Mapping[str, Any]) -> None:
        """Show an update."""
        step, loss = int(record["step"]), record.get("loss")
        if loss is not None and math.isfinite(loss):
            self._losses.append(float(loss))
        left = self._time_left(step)
        due = step % self.every == 0 or step == self.total_steps
        facts = self._facts(record, left)
        if due:
            told = [f"epoch {float(record['epoch']):.2f}", *facts]
            logger.info("step %d/%d %s", step, self.total_steps, " ".join(told))
        if self.enabled and is_live(self.console):
            self._move_bar(step, facts)
        elif self.enabled and due:
            self._tell(f"step {step}/{self.total_steps} epoch {float(record['epoch']):.2f} {' '.join(facts)}")

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """Show the scores of an evaluation; this line stays."""
        values = {str(name): value for name, value in (record.get("values") or {}).items()}
        line = f"step {record['step']} {record['split']}: {self._scores_line(values)}{self._praise(values)}"
        logger.info("%s", line)
        if self.enabled:
            self._tell(line)

    def _facts(self, record: Mapping[str, Any], left: float | None) -> list[str]:
        """What is known of the step, most important first: the live line shows as many as fit."""
        loss = sum(self._losses) / len(self._losses) if self._losses else None
        known: list[tuple[str, str]] = [("loss", number(loss) if record.get("loss") is not None else "not finite")]
        if left is not None:
            known.append(("left", duration(left)))
        if record.get("lr") is not None:
            known.append(("lr", f"{float(record['lr']):.2e}"))
        if record.get("examples_per_s"):
            known.append(("examples/s", _rate(float(record["examples_per_s"]))))
        if record.get("tokens_per_s"):
            known.append(("tokens/s", _rate(float(record["tokens_per_s"]))))
        if record.get("memory_bytes"):
            known.append(("memory", size(float(record["memory_bytes"]))))
        if record.get("grad_norm") is not None:
            known.append(("grad_norm", short(float(f"{float(record['grad_norm']):.3g}"))))
        return [f"{name} {value}" for name, value in known]

    def _time_left(self, step: int) -> float | None:
        """From the pace since the first step seen, evaluations and checkpoints included."""
        now = self._clock()
        if self._start is None:
            self._start = (step, now)
            return None
        first, since = self._start
        return (now - since) / (step - first) * (self.total_steps - step) if step > first else None

    def _move_bar(self, step: int, facts: list[str]) -> None:
        if self._bar is None:
            self._bar = live_on(self.console).add("train", self.total_steps)
        self._bar.move(step, facts)
        if step >= self.total_steps:
            self.close()

    def _scores_line(self, values: Mapping[str, Any]) -> str:
        names = sorted(values, key=lambda name: (name != self.metric, name != "loss"))
        rest = len(names) - _FEW_VALUES
        shown = "  ".join(f"{printable(name)} {number(values[name])}" for name in names[:_FEW_VALUES])
        return shown + (f"  (+{rest} more)" if rest > 0 else "")

    def _praise(self, values: Mapping[str, Any]) -> str:
        value = values.get(self.metric) if self.metric else None
        if self.metric is None or value is None:
            return ""
        better = self._best is None or ((value < self._best) == falls(self.metric) and value != self._best)
        if better:
            self._best = value
        return "  (best so far)" if better else ""

    def _tell(self, line: str) -> None:
        stamp = "" if is_live(self.console) else f"{time.strftime('%Y-%m-%d %H:%M:%S')} "
        self.console.print(Text(stamp + line), soft_wrap=True)


class PhaseProgress:
    """Shows how far named phases are (`update("tokenise train", 500, 14041)`); a new name ends the one before."""

    def __init__(self, *, enabled: bool = True, console: Console | None = None, clock: Clock = time.monotonic) -> None:
        self.enabled = enabled
        self.console = console or messages()
        self._clock = clock
        self._name: str | None = None
        self._started = 0.0
        self._told = 0.0
        self._reached = (0, 0)
        self._bar: Bar | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def update(self, name: str, done: int, total: int) -> None:
        """`done` of `total` is done."""
        now = self._clock()
        if name != self._name:
            self._end()
            self._name, self._started, self._told = name, now, now
        self._reached = (done, total)
        if self.enabled and is_live(self.console):
            self._bar = self._bar or live_on(self.console).add(name, total)
            self._bar.move(done, self._facts(now))
        elif self.enabled and now - self._told >= PLAIN_SECONDS and done < total:
            self._told = now
            self._tell(f"{name} {done:,}/{total:,} {' '.join(self._facts(now))}")
        if done >= total:
            self._end()

    def _facts(self, now: float) -> list[str]:
        done, total = self._reached
        spent = now - self._started
        if not done or spent <= 0 or done >= total:
            return []
        return [f"left {duration(spent / done * (total - done))}", f"{_rate(done / spent)}/s"]

    def _end(self) -> None:
        if self._bar:
            self._bar.close()
            self._bar = None
        if self._name is None:
            return
        spent, (done, total) = self._clock() - self._started, self._reached
        line = f"{self._name} {done:,}/{total:,} in {duration(spent)}"
        logger.info("%s", line)
        if self.enabled and spent >= _SHORT_PHASE and not is_live(self.console):
            self._tell(line)
        self._name = None

    def _tell(self, line: str) -> None:
        self.console.print(Text(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {printable(line)}"), soft_wrap=True)


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
