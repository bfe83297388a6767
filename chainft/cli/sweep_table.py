"""What a sweep found: one table on the console, `sweep.csv`, and the first error of a job's log."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chainft.run_folder import write_text

if TYPE_CHECKING:
    from chainft.cli.sweep_jobs import Job


def write_csv(path: Path, jobs: Sequence[Job]) -> None:
    """Every job: number, status, varied keys, best and test metrics, time, folder, error."""
    metrics = sorted({name for job in jobs for name in test_values(job)})
    keys = list(dict.fromkeys(key for job in jobs for key in job.varied))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["number", "status", *keys, "best_metric", "best_value", *(f"test_{name}" for name in metrics),
         "time_s", "exit_code", "folder", "error"]
    )  # fmt: skip
    for job in jobs:
        values = test_values(job)
        writer.writerow(
            [job.number, job.status, *(job.varied.get(key, "") for key in keys), job.results.get("main_metric", ""),
             _blank(best_value(job)), *(_blank(values.get(name)) for name in metrics),
             job.time_s, _blank(job.exit_code), job.folder, job.error or ""]
        )  # fmt: skip
    write_text(path, text.getvalue())


def print_table(jobs: Sequence[Job]) -> None:
    """The jobs with what varied and what came out; then the failures with their first error."""
    from rich.console import Console
    from rich.table import Table

    keys = list(dict.fromkeys(key for job in jobs for key in job.varied))
    metric = next((str(job.results["main_metric"]) for job in jobs if job.results.get("main_metric")), "metric")
    table = Table(title="sweep", title_justify="left")
    for column in ("#", *keys, "status", f"validation {metric}", f"test {metric}", "time (s)"):
        table.add_column(column, overflow="fold", justify="left" if column in (*keys, "status") else "right")
    for job in jobs:
        values = (best_value(job), test_values(job).get(metric))
        cells = ["" if value is None else f"{value:.4f}" for value in values]
        table.add_row(
            str(job.number), *(job.varied.get(key, "") for key in keys), job.status, *cells, f"{job.time_s:g}"
        )
    console = Console()
    console.print(table)
    for job in jobs:
        if job.error:
            console.print(f"[{job.number}] {job.status}: {job.error}  (log: {job.log})", markup=False, soft_wrap=True)


def best_value(job: Job) -> float | None:
    """The best validation score of the metric that chose the checkpoint; of a pruned run the last it had."""
    best = job.results.get("best") or {}
    value = best.get("value", job.value)
    return float(value) if isinstance(value, (int, float)) else None


def test_values(job: Job) -> dict[str, float]:
    """Test metrics after training."""
    after = (job.results.get("test") or {}).get("after") or {}
    values = after.get("values") or {}
    return {str(name): float(value) for name, value in values.items() if isinstance(value, (int, float))}


def error_line(log: Path) -> str | None:
    """The line of a job's log that says why its last try failed: our `error[...]`, else the last of a traceback."""
    try:
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return None
    starts = [place for place, line in enumerate(lines) if line.startswith("$ chainft ")]
    lines = lines[starts[-1] + 1 :] if starts else lines
    ours = [line for line in lines if line.startswith("error[")]
    filled = [line for line in lines if line]
    return ours[-1] if ours else filled[-1] if filled else None


def _blank(value: float | None) -> str:
    return "" if value is None else str(value)
