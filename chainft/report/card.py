"""The model card (`model/README.md`): what the model is, how well it does, how to use it, where it fails.

The YAML at its head is what the Hugging Face hub reads; no local path and no name of a local file is in it.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from chainft import __version__
from chainft.report.commands import about
from chainft.report.run_files import Outcome, RunFacts, read_run
from chainft.report.tables import MOST_ROWS
from chainft.report.words import change, duration, meaning, number, plural, printable, short
from chainft.run_folder import RunFolder
from chainft.tasks.base import Table

_PACKAGED = {
    "starter": "sentence-transformers/all-MiniLM-L6-v2",
    "smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct",
}
"""Hub names of the weights that installable packages bring (see `chainft.models.weights`)."""
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_METRIC_TYPES = ("f1", "precision", "recall", "accuracy", "perplexity", "exact_match", "rouge", "bleu", "chrf", "loss")
_MOST_LABELS = 100


def model_card(folder: RunFolder) -> str:
    """The card from the files in the run folder. Raises CheckpointError for a damaged one."""
    facts = read_run(folder)
    header = yaml.safe_dump(_header(facts), sort_keys=False, allow_unicode=True, width=1000)
    parts = (_intro(facts), _usage(facts), _scores(facts), _training(facts), _limits(facts))
    return f"---\n{header}---\n\n" + "\n\n".join("\n".join(part) for part in map(list, parts) if part) + "\n"


def base_model(facts: RunFacts) -> str | None:
    """Hub name of the model that was fine-tuned; None for a local folder."""
    path = str(facts.plan.get("model", {}).get("path") or "")
    if path in _PACKAGED:
        return _PACKAGED[path]
    return path if _HUB_NAME.fullmatch(path) and not Path(path).expanduser().exists() else None


def _pipeline(facts: RunFacts) -> str | None:
    """The pipeline of transformers that runs the model; None where its head is a plug-in, which only chainft knows."""
    if facts.plan.get("model", {}).get("head"):
        return None
    architecture = str(facts.plan.get("model", {}).get("class") or "")
    has_encoder = architecture.endswith(("ForConditionalGeneration", "MTModel", "ForSeq2SeqLM"))
    return None if has_encoder else about(facts.task).pipeline  # Version 5 has none for encoder-decoders.


def _header(facts: RunFacts) -> dict[str, Any]:
    header: dict[str, Any] = {"library_name": "transformers"}
    kind, base = about(facts.task).hub_tag or about(facts.task).pipeline, base_model(facts)
    if kind:
        header["pipeline_tag"] = kind
    if base:
        header["base_model"] = base
    header["tags"] = ["chainft", facts.task]
    if facts.outcome.shown and kind:
        header["metrics"] = sorted({kind for name in facts.outcome.shown[1].values if (kind := _metric_type(name))})
        header["model-index"] = [{"name": facts.name, "results": [_results(facts.outcome, kind)]}]
    return header


def _results(outcome: Outcome, kind: str) -> dict[str, Any]:
    split, scores = outcome.shown or ("", None)
    values = scores.values if scores else {}
    return {
        "task": {"type": kind},
        "dataset": {"name": "own data", "type": "custom", "split": split},
        "metrics": [
            {"type": _metric_type(name) or name, "name": name, "value": round(float(value), 6)}
            for name, value in values.items()
            if isinstance(value, int | float) and math.isfinite(value)
        ],
    }


def _metric_type(name: str) -> str | None:
    """The name that the hub has for the kind of a metric."""
    return next((kind for kind in _METRIC_TYPES if kind in name.casefold()), None)


def _intro(facts: RunFacts) -> Iterator[str]:
    base, labels = base_model(facts), facts.labels
    purpose = about(facts.task).purpose
    if purpose is None and facts.heads:
        purpose = f"does {plural(len(facts.heads), 'task')} on one trunk ({', '.join(facts.heads)})"
    purpose = purpose or f"does the task {_code(facts.task)}"
    origin = f"[{base}](https://huggingface.co/{base})" if base else "a local model"
    yield f"# {_plain(facts.name)}"
    yield ""
    yield f"This model {purpose}. It was fine-tuned from {origin} with chainft {facts.environment.get('chainft', __version__)}."
    if labels and about(facts.task).answers_labels:
        more = f" and {len(labels) - _MOST_LABELS} more" if len(labels) > _MOST_LABELS else ""
        yield ""
        yield f"It knows {plural(len(labels), 'label')}: {', '.join(_code(label) for label in labels[:_MOST_LABELS])}{more}."


def _usage(facts: RunFacts) -> Iterator[str]:
    pipeline, text = _pipeline(facts), about(facts.task).sample
    options = {
        "token-classification": ', aggregation_strategy="first"',
        "text-classification": ", top_k=None",
    }.get(pipeline or "", "")
    yield "## How to use it"
    if pipeline:
        arguments = ", max_new_tokens=100, return_full_text=False" if pipeline == "text-generation" else ""
        yield ""
        yield "```python"
        if str(facts.plan.get("model", {}).get("class") or "").startswith("Linked"):
            yield "import chainft  # Lets transformers load linked models."
        yield "from transformers import pipeline"
        yield ""
        yield f'model = pipeline("{pipeline}", model="path/to/this/folder"{options})'
        yield f'print(model("{text}"{arguments}))'
        yield "```"
    if head := facts.plan.get("model", {}).get("head"):
        yield ""
        yield f"Its head {_code(str(head))} is a plug-in: chainft loads the model where the package of the head is installed, transformers alone refuses it."
    if facts.heads:
        yield ""
        folders = ", ".join(_code(name) for name in facts.heads)
        yield f"Each of the folders {folders} is a plain model of transformers for its task."
    yield ""
    start = "All at once w" if facts.heads else "Or w" if pipeline else "W"
    yield f"{start}ith chainft, which also splits over-long texts into windows and builds the input just as in training:"
    yield ""
    yield "```"
    quoted = shlex.quote(text) if '"' in text else f'"{text}"'
    yield f"chainft predict path/to/this/folder {quoted}"
    yield "```"


def _scores(facts: RunFacts) -> Iterator[str]:
    shown = facts.outcome.shown
    yield "## Scores"
    yield ""
    if shown is None:
        yield "None were measured: there were neither test nor validation examples."
        return
    split, scores = shown
    before = facts.outcome.before if split == "test" else None
    examples = facts.plan.get("data", {}).get(split, {}).get("examples")
    yield f"On {plural(int(examples), f'{split} example')}:" if examples else f"On {split}:"
    yield ""
    yield "| metric | before | after | change | what it counts |" if before else "| metric | value | what it counts |"
    yield "|---|--:|--:|--:|---|" if before else "|---|--:|---|"
    for name, value in sorted(scores.values.items(), key=lambda item: item[0] != facts.outcome.main_metric):
        old = before.values.get(name) if before else None
        numbers = [number(old), number(value), change(old, value)] if before else [number(value)]
        yield f"| {' | '.join([_plain(name), *numbers, _plain(scores.meanings.get(name) or meaning(name, brief=True) or '')])} |"
    if split == "validation":
        yield ""
        yield "Validation also chose the best checkpoint: expect slightly less on new texts."
    for table in scores.tables:
        if 0 < len(table.rows) <= MOST_ROWS:
            yield from _table(table)


def _table(table: Table) -> Iterator[str]:
    yield ""
    yield f"### {_plain(table.title)}"
    yield ""
    yield f"| {' | '.join(_plain(column) for column in table.columns)} |"
    yield "|---" + "|--:" * (len(table.columns) - 1) + "|"
    for row in table.rows:
        yield f"| {' | '.join(_plain(number(cell)) for cell in row)} |"


def _training(facts: RunFacts) -> Iterator[str]:
    plan = facts.plan
    if not plan:
        return
    splits = [
        f"{plural(int(plan['data'][name]['examples']), f'{name} example')}"
        for name in ("train", "validation", "test")
        if name in plan["data"]
    ]
    best = facts.results.get("best") or {}
    yield "## How it was trained"
    yield ""
    yield f"- data: {', '.join(splits)}"
    yield f"- {plural(int(plan['steps']), 'step')} of {plural(int(plan['batch_size']), 'example')} ({short(round(float(plan['epochs']), 2))} epochs)"
    yield f"- optimizer {plan['optimizer']}, peak learning rate {short(float(plan['lr']))}, {plan['scheduler']} schedule, {plural(int(plan['warmup_steps']), 'warm-up step')}"
    yield f"- at most {plural(int(plan['model']['max_length']), 'token')} in one sequence; mixed precision: {plan['mixed_precision']}; seed {plan['seed']}"
    if best.get("step") is not None:
        chosen = "the best on validation" if facts.chosen else "the last: there was no validation to choose by"
        yield f"- these are the weights of step {best['step']:,}, {chosen}"
    if facts.results.get("train_time_s") is not None:
        yield f"- training took {duration(float(facts.results['train_time_s']))} on {plan['device']}"
    versions = [f"{name} {facts.environment[name]}" for name in ("torch", "transformers") if name in facts.environment]
    if versions:
        yield f"- {', '.join(versions)}"


def _limits(facts: RunFacts) -> Iterator[str]:
    yield "## Limits"
    yield ""
    yield "- It learned from the examples above alone: expect lower scores on other languages, topics or styles of text."
    if facts.labels and about(facts.task).answers_labels:
        yield "- It always answers with the labels above; what belongs to none of them is forced into one or overlooked."
    if limit := about(facts.task).limit:
        yield f"- {limit}"
    yield "- It inherits the biases of the model it was tuned from, and its scores are no promise for single answers."
    for finding in facts.card.get("findings") or ():
        message = str(finding["message"])
        if finding.get("severity") == "warning" and "/" not in message:  # A path says where data lies: not for others.
            yield f"- Noticed in the data: {_plain(message)}."


def _plain(text: str) -> str:
    """Text from data or config without effect as Markdown or HTML."""
    return re.sub(r"([\\`*\[\]<>#|!]|(?<!\w)_|_(?!\w))", r"\\\1", printable(text))


def _code(text: str) -> str:
    """Inline code that holds any text."""
    clean = printable(text)
    fence = "`" * (max((len(run) for run in re.findall(r"`+", clean)), default=0) + 1)
    pad = " " if clean.startswith("`") or clean.endswith("`") else ""
    return f"{fence}{pad}{clean}{pad}{fence}"
