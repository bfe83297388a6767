"""Progress: plain lines without a terminal, a live line with one, and nothing of it twice or garbled."""

from __future__ import annotations

import io
import logging
import re

import pytest
from rich.console import Console

from chainft.report.live import live_on
from chainft.report.logs import setup_logging
from chainft.report.progress import PhaseProgress, TrainProgress


class Clock:
    """Time that only the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def restored_logging():
    root, ours = logging.getLogger(), logging.getLogger("chainft")
    before = (list(root.handlers), ours.level)
    yield
    for handler in [one for one in root.handlers if one not in before[0]]:
        root.removeHandler(handler)
        handler.close()
    ours.setLevel(before[1])
    logging.captureWarnings(False)


def plain() -> Console:
    return Console(file=io.StringIO(), width=80, markup=False, highlight=False)


def terminal(width: int = 100) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, markup=False)


def shown(console: Console) -> str:
    return console.file.getvalue()


def record(step: int, **changes) -> dict:
    facts = {
        "kind": "train", "step": step, "epoch": step / 20, "loss": 1.0, "lr": 1e-4, "grad_norm": 0.9,
        "examples_per_s": 52.0, "tokens_per_s": 2100.0, "memory_bytes": 2**30, "time_s": float(step),
    }  # fmt: skip
    return facts | changes


def evaluation(step: int, **values) -> dict:
    return {"kind": "evaluation", "split": "validation", "step": step, "epoch": step / 20, "values": values}


def test_without_a_terminal_a_line_comes_every_interval():
    console, clock = plain(), Clock()
    with TrainProgress(25, every=10, console=console, clock=clock) as progress:
        for step in range(1, 26):
            clock.now = float(step)
            progress.step(record(step, loss=step / 10))
    lines = shown(console).splitlines()
    assert [re.search(r"step (\d+)/25", line)[1] for line in lines] == ["10", "20", "25"]
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d step", line) for line in lines)
    assert "epoch 0.50 loss 0.5500 left 15 s lr 1.00e-04 examples/s 52 tokens/s 2,100 memory 1.0 GiB" in lines[0]
    assert "\r" not in shown(console) and "\x1b" not in shown(console)


def test_loss_is_the_mean_since_the_last_line_and_says_when_it_is_not_finite():
    console = plain()
    with TrainProgress(4, every=2, console=console, clock=Clock()) as progress:
        for step, loss in enumerate((1.0, 2.0, 5.0, None), start=1):
            progress.step(record(step, loss=loss))
    assert "loss 1.5000" in shown(console) and "loss not finite" in shown(console)


def test_evaluation_shows_the_chosen_metric_first_and_praises_the_best():
    console = plain()
    progress = TrainProgress(100, metric="entity_f1", console=console)
    progress.evaluation(evaluation(20, loss=0.5, a=1, b=1, c=1, d=1, e=1, entity_f1=0.5))
    progress.evaluation(evaluation(40, loss=0.4, entity_f1=0.4))
    progress.evaluation(evaluation(60, loss=0.3, entity_f1=0.6))
    lines = shown(console).splitlines()
    assert "step 20 validation: entity_f1 0.5000  loss 0.5000" in lines[0] and "(+2 more)" in lines[0]
    assert ["best so far" in line for line in lines] == [True, False, True]


def test_best_loss_is_the_lowest():
    console = plain()
    progress = TrainProgress(100, metric="loss", console=console)
    for step, loss in ((1, 0.5), (2, 0.6), (3, 0.4), (4, 0.4)):
        progress.evaluation(evaluation(step, loss=loss))
    assert ["best so far" in line for line in shown(console).splitlines()] == [True, False, True, False]


def test_terminal_shows_a_live_line_that_goes_away():
    console = terminal()
    with TrainProgress(3, console=console) as progress:
        progress.step(record(1))
        assert not live_on(console)._progress.finished
        live_on(console)._progress.refresh()
    text = shown(console)
    assert "train" in text and "1/3" in text and "loss 1.0000" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1, "the cursor comes back"


@pytest.mark.parametrize("width", [40, 60, 100, 160])
def test_live_line_never_wraps(width):
    console = terminal(width)
    with TrainProgress(10_000, console=console) as progress:
        progress.step(record(1))
        progress.step(record(2))
        live_on(console)._progress.refresh()
    lines = re.sub(r"\x1b\[[?\d]*[A-Za-z]", "\n", shown(console)).replace("\r", "\n").splitlines()
    assert max(map(len, lines)) <= width


def test_cursor_comes_back_when_training_fails():
    console = terminal()
    with pytest.raises(ValueError, match="boom"), TrainProgress(3, console=console) as progress:
        progress.step(record(1))
        raise ValueError("boom")
    assert shown(console).count("\x1b[?25l") == shown(console).count("\x1b[?25h") == 1


def test_evaluation_inside_training_shares_the_display():
    console = terminal()
    with TrainProgress(3, console=console) as training:
        training.step(record(1))
        with PhaseProgress(console=console) as phase:
            phase.update("evaluate validation", 1, 2)
            live_on(console)._progress.refresh()
            phase.update("evaluate validation", 2, 2)
        training.step(record(2))
        assert len(live_on(console)._progress.tasks) == 1
    assert "evaluate validation" in shown(console)
    assert live_on(console)._progress.tasks == []


@pytest.mark.parametrize("console", [plain(), terminal()])
def test_disabled_progress_prints_nothing(console):
    with TrainProgress(2, every=1, console=console, enabled=False) as progress:
        progress.step(record(1))
        progress.evaluation(evaluation(1, loss=0.5))
    with PhaseProgress(console=console, enabled=False, clock=Clock()) as phase:
        phase.update("tokenise train", 0, 2)
    assert shown(console) == ""


def test_phase_tells_now_and_then_and_at_its_end():
    console, clock = plain(), Clock()
    with PhaseProgress(console=console, clock=clock) as phase:
        for done in range(31):
            clock.now = float(done)
            phase.update("tokenise train", done * 100, 3000)
        phase.update("tokenise test", 5, 5)
    lines = [line.split(" ", 2)[2] for line in shown(console).splitlines()]
    assert lines == [
        "tokenise train 1,000/3,000 left 20 s 100/s",
        "tokenise train 2,000/3,000 left 10 s 100/s",
        "tokenise train 3,000/3,000 in 30 s",
    ], "phases of less than a second are not told"


def test_log_and_live_line_do_not_garble_each_other(tmp_path):
    console = terminal()
    setup_logging(tmp_path / "log.txt", console=console)
    with TrainProgress(3, every=1, console=console) as progress:
        progress.step(record(1))
        logging.getLogger("chainft.train").warning("careful")
    assert re.search(r"(^|[\nK])warning: careful *\n", shown(console))


def test_log_file_has_what_the_terminal_leaves_out(tmp_path):
    console = plain()
    setup_logging(tmp_path / "log.txt", console=console)
    logging.getLogger("chainft.data").info("read 5 rows")
    logging.getLogger("chainft.data").warning("odd row\x1b[2J")
    logging.getLogger("chainft.data").error("told elsewhere", extra={"file_only": True})
    logging.getLogger("somelibrary").warning("\x1b[1madvice\x1b[0m")
    logging.getLogger("somelibrary").info("chatter")
    with TrainProgress(1, every=1, console=plain()) as progress:
        progress.step(record(1))
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert shown(console) == "warning: odd row\\x1b[2J\n"
    for line in ("read 5 rows", "odd row", "told elsewhere", "advice", "step 1/1 epoch 0.05 loss 1.0000"):
        assert line in log
    assert "chatter" not in log and "\x1b" not in log


def test_quiet_logs_errors_only():
    console = plain()
    setup_logging(None, quiet=True, console=console)
    logging.getLogger("chainft.x").warning("careful")
    logging.getLogger("chainft.x").error("broken")
    assert shown(console) == "error: broken\n"


def test_second_setup_replaces_the_first(tmp_path):
    first, second = plain(), plain()
    setup_logging(tmp_path / "one.txt", console=first)
    setup_logging(tmp_path / "two.txt", console=second)
    logging.getLogger("chainft.x").warning("once")
    assert shown(first) == "" and shown(second) == "warning: once\n"
    assert (tmp_path / "one.txt").read_text() == "" and "once" in (tmp_path / "two.txt").read_text()


def test_full_disk_is_told_once_and_does_not_stop_the_run(tmp_path):
    """fault 27: no space for log.txt."""
    console = plain()
    setup_logging(tmp_path / "log.txt", console=console)
    handler = logging.getLogger().handlers[-1]

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    handler.stream.close()
    handler.stream = Full()
    for _ in range(2):
        logging.getLogger("chainft.x").info("line")
    assert shown(console).count("No space left on device") == 1
