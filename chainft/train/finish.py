"""What a run leaves behind: scores of the best weights, predictions, mistakes, the model folder, the report."""

from __future__ import annotations

import heapq
import io
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from safetensors import SafetensorError

from chainft.data.example import Split
from chainft.errors import StorageError
from chainft.infer.engine import Engine, Predicted, score
from chainft.infer.trained import save_trained
from chainft.report.card import model_card
from chainft.report.page import write_report
from chainft.report.progress import PhaseProgress
from chainft.run_folder import RunFolder, write_json, write_text
from chainft.stages.chain import Chain
from chainft.tasks.base import Mistake, Scores, Task
from chainft.train.prepare import Prepared


@dataclass
class WorstMistakes:
    """The worst `most` mistakes seen, in memory that does not grow."""

    most: int
    _heap: list[tuple[float, int, Mistake]] = field(default_factory=list)

    def add(self, number: int, mistake: Mistake | None) -> None:
        if mistake is None or self.most == 0:
            return
        entry = (mistake.badness, -number, mistake)  # Of equally bad ones, the first is kept.
        if len(self._heap) < self.most:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def sorted(self) -> list[Mistake]:
        """Worst first."""
        return [mistake for _, _, mistake in sorted(self._heap, reverse=True)]


def scores_to_json(scores: Scores) -> dict[str, Any]:
    """Scores as `all_results.json` holds them; JSON has no number for one that is not finite."""
    return {
        "values": {name: value if math.isfinite(value) else None for name, value in scores.values.items()},
        "tables": [asdict(table) for table in scores.tables],
        "confusions": [asdict(confusion) for confusion in scores.confusions],
        "charts": [asdict(chart) for chart in scores.charts],
        "meanings": dict(scores.meanings),
    }


def score_and_write(
    engine: Engine, prepared: Prepared, split: Split, *, path: Path | None, worst: WorstMistakes | None = None
) -> Scores:
    """Score a split with the current weights and write its predictions with the gold answers to `path`."""
    examples = prepared.splits.examples[split]
    with _predictions_file(path) as stream, PhaseProgress(enabled=engine.world.is_main) as phase:

        def sink(one: Predicted) -> None:
            stream.write(prediction_line(prepared.task, one) + "\n")
            if worst is not None:
                worst.add(one.index, prepared.task.mistake(one.example, one.prediction))

        predicted = engine.predict_store(
            examples,
            prepared.stores[split],
            progress=lambda done, total: phase.update(f"evaluate {split}", done, total),
        )
        return score(engine, predicted, sink=sink)


def prediction_line(task: Task, one: Predicted) -> str:
    """A prediction with its gold answer and origin as one JSON line."""
    record = {
        "id": one.index,
        "where": one.example.where(),
        "gold": task.gold(one.example),
        "prediction": one.prediction,
    }
    return json.dumps(record, ensure_ascii=False)


def write_artefacts(
    folder: RunFolder,
    engine: Engine,
    chain: Chain,
    results: Mapping[str, Any],
    mistakes: list[Mistake],
    *,
    report: bool,
) -> None:
    """Write results, mistakes, the model folder with its card, and the report."""
    write_json(folder.results, dict(results))
    lines = [json.dumps(asdict(mistake), ensure_ascii=False) + "\n" for mistake in mistakes]
    write_text(folder.path / "mistakes.jsonl", "".join(lines))
    _write_model(folder, engine, chain)
    if report:
        write_report(folder)


def _write_model(folder: RunFolder, engine: Engine, chain: Chain) -> None:
    """`model/`, whole or not at all."""
    temporary = folder.path / ".model.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        save_trained(temporary, engine.model, engine.task, chain)
        (temporary / "README.md").write_text(model_card(folder), encoding="utf-8")
        shutil.rmtree(folder.model, ignore_errors=True)
        temporary.rename(folder.model)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) else error
        raise StorageError(
            f"cannot write the model folder {str(folder.model)!r}: {reason}",
            slug="write-failed",
            help=f"free disk space, then 'chainft train run={folder.path} resume=true'",
        ) from error


@contextmanager
def _predictions_file(path: Path | None) -> Iterator[TextIO]:
    if path is None:
        yield io.StringIO()  # Only the main process has predictions, and writes.
        return
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as stream:
            yield stream
        temporary.replace(path)
    except OSError as error:
        raise StorageError(
            f"cannot write {str(path)!r}: {error.strerror}", slug="write-failed", help="free disk space"
        ) from error
