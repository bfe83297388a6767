"""The section of the page with the plots that a task's metrics bring."""

from __future__ import annotations

from chainft.report.bars import bar_chart
from chainft.report.charts import Chart as Frame
from chainft.report.charts import Line, line_chart
from chainft.report.markup import Html, tag
from chainft.report.run_files import RunFacts
from chainft.report.sections_scores import section
from chainft.tasks.base import Chart, Series


def charts_section(facts: RunFacts) -> Html | None:
    """Every chart of the split that is shown."""
    shown = facts.outcome.shown
    drawn = [made for chart in (shown[1].charts if shown else ()) if (made := _figure(chart)) is not None]
    if shown is None or not drawn:
        return None
    return section("plots", f"A closer look, on {shown[0]}", tag("div", drawn, class_="parts"))


def _figure(chart: Chart) -> Html | None:
    if chart.kind == "bar":
        return bar_chart(chart)
    lines = [Line(one.name, _numbers(one), style, marked=True) for style, one in enumerate(chart.series)]
    return line_chart(Frame(chart.title, chart.note, chart.x), lines)


def _numbers(series: Series) -> tuple[tuple[float, float], ...]:
    return tuple((x, y) for x, y in series.points if not isinstance(x, str))
