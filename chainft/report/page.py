"""Writes `report.html`: one page that needs nothing else, for the screen (light and dark) and for paper.

It has no script and loads nothing: a strict content security policy says so to the browser, and everything
from data, labels and config is escaped by the builder in `markup`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from chainft import __version__
from chainft.report.markup import Html, raw, tag
from chainft.report.run_files import RunFacts, read_run
from chainft.report.sections import commands_section, curves_section, headline, settings_section
from chainft.report.sections_charts import charts_section
from chainft.report.sections_data import data_section, findings_section, mistakes_section
from chainft.report.sections_scores import classes_section, confusion_section, scores_section
from chainft.run_folder import RunFolder, write_text

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"

_SECTIONS: tuple[tuple[str, Callable[[RunFacts], Html | None]], ...] = (
    ("Data warnings", findings_section),
    ("Scores", scores_section),
    ("Curves", curves_section),
    ("Per class", classes_section),
    ("Confusion", confusion_section),
    ("Plots", charts_section),
    ("Mistakes", mistakes_section),
    ("Data", data_section),
    ("Go on", commands_section),
    ("Settings", settings_section),
)


def write_report(folder: RunFolder) -> Path:
    """Write the page from the files in the run folder; what a run lacks is left out.

    Raises CheckpointError for a damaged file and StorageError where it can't be written.
    """
    write_text(folder.report, render_page(read_run(folder)))
    return folder.report


def render_page(facts: RunFacts) -> str:
    """The page as text."""
    parts = [(name, made) for name, make in _SECTIONS if (made := make(facts))]
    contents = tag("nav", [tag("a", name, href=f"#{_anchor(part)}") for name, part in parts], aria_label="Contents")
    foot = tag(
        "footer", f"Written by chainft {facts.environment.get('chainft', __version__)} from the files of {facts.name}."
    )
    page = tag(
        "html",
        tag("head", _head(facts)),
        tag("body", headline(facts), contents, tag("main", [part for _, part in parts]), foot),
        lang="en",
    )
    return f"<!DOCTYPE html>\n{page}\n"


def _head(facts: RunFacts) -> list[Html]:
    style = resources.files("chainft.report").joinpath("style.css").read_text(encoding="utf-8")
    return [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{facts.name}: chainft report"),
        tag("style", raw(style)),
    ]


def _anchor(part: Html) -> str:
    found = re.match(r'<section id="([a-z]+)">', part)
    return found[1] if found else ""
