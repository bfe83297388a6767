"""Writes down what both tools of `chainft bench` are given: the examples as chainft reads them, and the settings.

    python -m chainft.bench.export REQUEST.json

A process of its own, so that the command which starts the measured processes stays small. Writes `train.jsonl`, ... and
`facts.json` into the folder of the request. A mistake of the user's is one JSON line on standard error.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chainft.bench.mirror import METRICS, SCHEDULES
from chainft.bench.trainer_baseline import Settings
from chainft.config.compose import compose
from chainft.config.run import RunConfig
from chainft.data.example import Example
from chainft.data.load import load_splits
from chainft.errors import ChainftError, ConfigError, ModelError
from chainft.models.load import load_config
from chainft.models.weights import locate
from chainft.plan.followed import new_chain
from chainft.registry import find
from chainft.run_folder import write_json, write_text
from chainft.stages.blocks import find_blocks
from chainft.stages.chain import Chain
from chainft.stages.links_load import read_tokenizer
from chainft.tasks.base import Task
from chainft.text.tagged import iob2
from chainft.train.schedule import warmup_steps_of


@dataclass(frozen=True)
class Request:
    """What is compared."""

    words: tuple[str, ...]
    config_dir: str | None
    config_name: str
    folder: str
    steps: int
    best: bool


def main() -> int:
    """Exit code of the process."""
    request = Request(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    try:
        export(request)
    except ChainftError as error:
        sys.stderr.write(error.to_json() + "\n")
        return error.exit_code
    return 0


def export(request: Request) -> None:
    """Write examples and facts. Raises ChainftError."""
    folder = Path(request.folder)
    config_dir = Path(request.config_dir) if request.config_dir else None
    config = compose(request.words, config_dir=config_dir, config_name=request.config_name).config
    task: Task = find("task", config.task.name, key="task.name")(config.task)
    splits = load_splits(config.data, task)
    task.learn_labels(splits.examples, unseen=config.data.unseen_labels)
    for split, examples in splits.examples.items():
        lines = [json.dumps(_row(task, example), ensure_ascii=False) + "\n" for example in examples]
        write_text(folder / f"{split}.jsonl", "".join(lines))
    tokenizer, max_length = read_tokenizer(config)
    task.prepare(tokenizer, max_length=max_length)
    chain = new_chain(config, task, (1, min(8, max_length)))
    frozen = tuple(name for name, parameter in chain.model.named_parameters() if not parameter.requires_grad)
    settings = _settings(config, request, _labels(config, task), frozen)
    write_json(
        folder / "facts.json",
        {
            "settings": asdict(settings) | {"max_length": max_length},
            "examples": {split: len(examples) for split, examples in splits.examples.items()},
            "blocks": _blocks(chain),
        },
    )


def _row(task: Task, example: Example) -> dict[str, Any]:
    """An example as the baseline reads it: tags in IOB2, which chainft learns whatever the data are in."""
    if task.config.name == "ner":
        return {"tokens": list(example.values["tokens"]), "tags": iob2(example)}
    if example.values.get("text_pair") is not None:
        raise ConfigError(
            "the rows have two texts; the Trainer baseline mirrors single texts",
            slug="not-mirrored",
            where=example.where(),
            key="data.columns",
            help="leave the column of the second text away",
        )
    return {"text": example.values["text"], "label": example.values["label"]}


def _labels(config: RunConfig, task: Task) -> tuple[str, ...]:
    """In the order of the head that the weights bring, where it is for the same labels: chainft keeps that head too."""
    names: Mapping[Any, str] = load_config(config.model).id2label or {}
    own = tuple(names[number] for number in sorted(names))
    return own if sorted(own) == sorted(task.labels.names) else tuple(task.labels.names)


def _settings(config: RunConfig, request: Request, labels: Sequence[str], frozen: Sequence[str]) -> Settings:
    place, train, optimizer = locate(config.model), config.train, config.optimizer
    name: Any = config.task.name
    metric: Any = METRICS[name]
    betas: Any = optimizer.options.get("betas", Settings.adam_betas)
    eps: Any = optimizer.options.get("eps", Settings.adam_epsilon)
    return Settings(
        task=name,
        data=request.folder,
        model=place.name,
        revision=place.revision,
        tokenizer=config.model.tokenizer,
        labels=tuple(labels),
        metric=metric,
        frozen=tuple(frozen),
        seed=config.seed,
        max_steps=request.steps,
        batch_size=train.batch_size,
        eval_batch_size=config.evaluation.batch_size,
        learning_rate=optimizer.lr,
        weight_decay=optimizer.weight_decay,
        adam_betas=tuple(betas),
        adam_epsilon=eps,
        lr_scheduler_type=SCHEDULES[config.scheduler.name],
        warmup_steps=warmup_steps_of(request.steps, config.scheduler),
        max_grad_norm=train.max_grad_norm or 0.0,
        gradient_checkpointing=train.gradient_checkpointing,
        save_total_limit=config.checkpoint.max_checkpoints,
        logging_steps=train.logging_steps,
        use_cpu=train.device == "cpu",
        bf16=train.mixed_precision == "bf16",
        torch_compile=train.compile is True,
        best=request.best,
    )


def _blocks(chain: Chain) -> Mapping[str, Any]:
    """Weight matrices of the blocks as often as they compute: parameters, and [rows, columns, how many] of each form."""
    try:
        blocks = find_blocks(chain.model)
    except ModelError as error:
        return {"unknown": error.problems[0].message}
    counts = {"trained": 0, "frozen": 0}
    forms: Counter[tuple[int, ...]] = Counter()
    for block in range(blocks.num_blocks):
        parameters = list(blocks.module(block).parameters())
        kind = "trained" if any(chain.trains(parameter) for parameter in parameters) else "frozen"
        matrices = [tuple(parameter.shape) for parameter in parameters if parameter.ndim == 2]
        forms.update(matrices)
        counts[kind] += sum(rows * columns for rows, columns in matrices)
    return {**counts, "forms": [[*form, count] for form, count in sorted(forms.items())]}


if __name__ == "__main__":
    sys.exit(main())
