"""Sections of the page about the run itself: headline, learning curves, how to go on, settings, environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chainft.report.charts import MOST_POINTS, Chart, Line, Point, line_chart
from chainft.report.commands import about, next_commands
from chainft.report.markup import Child, Html, tag
from chainft.report.plan_words import plan_lines
from chainft.report.run_files import RunFacts
from chainft.report.sections_scores import section
from chainft.report.words import change, duration, judgement, meaning, number, plural, short, size


def headline(facts: RunFacts) -> Html:
    """What came out, in one number and one sentence."""
    return tag(
        "header",
        tag("p", about(facts.task).title or facts.task, " · ", tag("span", facts.name, class_="run"), class_="kicker"),
        _result(facts),
        _key_facts(facts),
    )


def _result(facts: RunFacts) -> list[Child]:
    outcome, metric = facts.outcome, facts.outcome.main_metric
    if outcome.shown is None or metric is None or metric not in outcome.shown[1].values:
        return [
            tag("h1", "Finished without scores" if facts.results else "This run has not finished"),
            _why_none(facts),
        ]
    split, scores = outcome.shown
    after = scores.values[metric]
    before = outcome.before.values.get(metric) if outcome.before and split == "test" else None
    numbers: list[Child] = [
        [tag("span", number(before), class_="before"), tag("span", " → ", class_="arrow", aria_label="to")]
        if before is not None
        else None,
        tag("span", number(after), class_="after"),
        tag("span", " ", change(before, after), class_=f"change {judgement(metric, before, after)}")
        if before is not None
        else None,
    ]
    explained = scores.meanings.get(metric) or meaning(metric)
    chosen = "Validation also chose the best checkpoint, so expect slightly less on new texts. Give data.test for a fair score."
    return [
        tag("h1", tag("span", f"{metric} on {split}", class_="metric"), " ", tag("span", numbers, class_="numbers")),
        tag("p", f"{explained[0].upper()}{explained[1:]}.", class_="lead") if explained else None,
        tag("p", chosen, class_="note") if split == "validation" else None,
    ]


def _why_none(facts: RunFacts) -> Html:
    if facts.results:
        return tag("p", "There are neither test nor validation examples to score.", class_="lead")
    return tag(
        "p",
        "Shown is what it has written so far. Go on by ",
        _code(f"chainft train run={_run_path(facts)} resume=true"),
    )


def _key_facts(facts: RunFacts) -> Html | None:
    best, results = facts.results.get("best") or {}, facts.results
    train = (facts.card.get("splits") or {}).get("train") or {}
    known: list[tuple[str, str]] = []
    if best.get("step") is not None and results.get("steps"):
        early = ", stopped early" if results.get("stopped_early") else ""
        epoch = f" (epoch {short(round(float(best['epoch']), 2))})" if best.get("epoch") is not None else ""
        known.append(
            (
                "best weights" if facts.chosen else "last weights",
                f"step {best['step']:,} of {results['steps']:,}{epoch}{early}",
            )
        )
    if results.get("train_time_s") is not None:
        known.append(("training took", duration(float(results["train_time_s"]))))
    if facts.plan.get("model"):
        known.append(("model", f"{facts.plan['model']['path']}, {facts.plan['model']['parameters']:,} parameters"))
    if train.get("examples"):
        known.append(("trained on", plural(int(train["examples"]), "example")))
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in known], class_="facts")


def curves_section(facts: RunFacts) -> Html | None:
    """Loss, main metric, learning rate and gradient norm over the steps."""
    train, evaluations = facts.curves.train, facts.curves.evaluations
    best = (facts.results.get("best") or {}).get("step")
    per_epoch = facts.plan.get("steps_per_epoch")
    x_label = f"step ({plural(int(per_epoch), 'step')} make an epoch)" if per_epoch else "step"
    metric = facts.outcome.main_metric
    shown_best = float(best) if best is not None and evaluations else None
    steps = tuple(float(record["step"]) for record in (*train[:1], *train[-1:]))
    figures = [
        line_chart(
            Chart("Loss", "mean loss of one target; lower is better", x_label, best=shown_best, ends=steps),
            [Line("train", _points(train, "loss")), Line("validation", _values(evaluations, "loss"), 1, marked=True)],
        ),
        line_chart(
            Chart(str(metric), "on validation", x_label, zero=False, best=shown_best, ends=steps),
            [Line(str(metric), _values(evaluations, str(metric)), 1, marked=True)],
        )
        if metric and metric != "loss"
        else None,
        line_chart(Chart("Learning rate", "how far each step may go", x_label), [Line("lr", _points(train, "lr"))]),
        line_chart(
            Chart("Gradient norm", "before clipping; peaks are unusual batches", x_label),
            [Line("gradient norm", _points(train, "grad_norm"))],
        ),
    ]
    drawn = [one for one in figures if one]
    return (
        section("curves", "Learning curves", tag("div", drawn, class_="charts"), _curve_notes(facts))
        if drawn
        else None
    )


def _curve_notes(facts: RunFacts) -> list[Child]:
    steps, unreadable = len(facts.curves.train), facts.curves.num_unreadable
    stretch = -(-steps // MOST_POINTS)
    thin = (
        f"Each point of a curve is the mean of {stretch} steps; every step is in metrics.jsonl." if stretch > 1 else ""
    )
    cut = f"{plural(unreadable, 'line')} of metrics.jsonl could not be read." if unreadable else ""
    return [tag("p", text, class_="note") for text in (thin, cut) if text]


def _points(records: tuple[Mapping[str, Any], ...], name: str) -> tuple[Point, ...]:
    return tuple((float(record["step"]), _number(record.get(name))) for record in records)


def _values(records: tuple[Mapping[str, Any], ...], name: str) -> tuple[Point, ...]:
    return tuple(
        (float(record["step"]), _number((record.get("values") or {}).get(name)))
        for record in records
        if record.get("split") == "validation"
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def commands_section(facts: RunFacts) -> Html:
    """What to type next."""
    rows = [
        tag("li", tag("span", command.purpose, class_="purpose"), _code(command.line))
        for command in next_commands(_run_path(facts), facts.task, tested=facts.outcome.after is not None)
    ]
    loads = tag(
        "p", "The folder ", tag("code", "model/"), " is a plain Hugging Face folder with a model card.", class_="note"
    )
    return section("next", "Go on", tag("ul", rows, class_="commands"), loads)


def settings_section(facts: RunFacts) -> Html | None:
    """The plan in words, the whole config and the environment, folded."""
    plan = [tag("div", tag("dt", key), tag("dd", text)) for key, text in plan_lines(facts.plan)] if facts.plan else []
    overrides_file = facts.folder.overrides
    overrides = overrides_file.read_text(encoding="utf-8", errors="replace") if overrides_file.is_file() else ""
    environment = [
        tag("div", tag("dt", key), tag("dd", _environment_value(key, value)))
        for key, value in facts.environment.items()
    ]
    parts: list[Child] = [
        tag("dl", plan, class_="settings") if plan else None,
        _folded("What was given on the command line", overrides) if overrides.strip(" []\n") else None,
        _folded("config.yaml: every setting", facts.config) if facts.config else None,
        tag("details", tag("summary", "Environment"), tag("dl", environment, class_="settings"))
        if environment
        else None,
    ]
    return section("settings", "Settings and environment", parts) if any(parts) else None


def _run_path(facts: RunFacts) -> str:
    """The folder as the user named it."""
    return str(facts.plan.get("run") or facts.folder.path)


def _environment_value(key: str, value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_environment_value(key, one) for one in value) or "none"
    if isinstance(value, Mapping):
        return " ".join(_environment_value(str(name), one) for name, one in value.items())
    if key.endswith("_bytes") and isinstance(value, int | float):
        return size(float(value))
    return number(value) if value is None else str(value)


def _folded(title: str, text: str) -> Html:
    return tag("details", tag("summary", title), tag("pre", tag("code", text)))


def _code(line: str) -> Html:
    return tag("pre", tag("code", line))
