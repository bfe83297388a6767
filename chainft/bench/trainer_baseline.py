"""What a user would otherwise write: fine-tuning with the Hugging Face Trainer, as its documentation shows it.

    python -m chainft.bench.trainer_baseline SETTINGS.json

For `chainft bench` and the scripts that compare: the one baseline. Reads JSON lines (`tokens` and `tags`, or `text` and
`label`), so that both tools see the same examples, and prints one JSON line with scores, times and tokens. Nothing of
chainft is used in it. Texts longer than the model takes are cut, as in the documentation.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

STARTED = time.perf_counter()
IGNORED = -100
_BYTE_LEVEL = ("bloom", "gpt2", "roberta", "deberta")
Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One training; names and defaults are those of `TrainingArguments` where it has them."""

    task: Literal["ner", "classify"]
    data: str
    """Folder with `train.jsonl` and perhaps `validation.jsonl` and `test.jsonl`."""
    model: str
    """Folder or hub name."""
    labels: tuple[str, ...]
    """Names of the classes in the order of their numbers."""
    metric: Literal["entity_f1", "f1_macro", "accuracy"]
    batch_size: int
    learning_rate: float
    seed: int
    revision: str | None = None
    tokenizer: str | None = None
    max_length: int = 512
    frozen: tuple[str, ...] = ()
    """Parameters, or modules with all of theirs, that are not trained."""
    num_train_epochs: float = 3.0
    max_steps: int = -1
    """Stop after so many updates; -1: by `num_train_epochs`."""
    eval_batch_size: int = 64
    weight_decay: float = 0.01
    adam_betas: tuple[float, float] = (0.9, 0.999)
    adam_epsilon: float = 1e-8
    lr_scheduler_type: str = "linear"
    warmup_steps: float = 0.1
    """Steps, or below 1 their share of all."""
    max_grad_norm: float = 1.0
    gradient_checkpointing: bool = False
    save_total_limit: int = 1
    logging_steps: int = 50
    use_cpu: bool = False
    bf16: bool = False
    """Forward pass under autocast to bfloat16."""
    torch_compile: bool = False
    """The model compiled, as `TrainingArguments.torch_compile` does it."""
    best: bool = False
    """With the fastest settings that the Trainer offers: batches of texts of like length, fused AdamW."""


def main() -> None:
    settings = Settings(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    sys.stdout.write(json.dumps(train(settings)) + "\n")


def train(settings: Settings) -> dict[str, Any]:
    """Train and score; what the command prints."""
    from transformers import (
        DataCollatorForTokenClassification,
        DataCollatorWithPadding,
        Trainer,
        set_seed,
    )

    set_seed(settings.seed)
    tagging = settings.task == "ner"
    tokenizer = _tokenizer(settings)
    ids = {name: number for number, name in enumerate(settings.labels)}
    encode = _encode_tags if tagging else _encode_text
    features: dict[str, Any] = {
        name: [encode(row, tokenizer, ids, settings.max_length) for row in rows]
        for name, rows in _read(Path(settings.data)).items()
    }
    watch = _watch()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=_model(settings),
            args=_arguments(settings, folder, validates="validation" in features),
            train_dataset=features["train"],
            eval_dataset=features.get("validation"),
            data_collator=(DataCollatorForTokenClassification if tagging else DataCollatorWithPadding)(tokenizer),
            compute_metrics=_metric(settings),
            callbacks=[watch],
        )
        started = time.perf_counter()
        trainer.train()
        train_seconds = time.perf_counter() - started
        scored = next((split for split in ("test", "validation") if split in features), None)
        score = trainer.evaluate(features[scored])["eval_score"] if scored else None
    return {
        "score": score,
        "scored": scored,
        "loss": next((one["loss"] for one in reversed(trainer.state.log_history) if "loss" in one), None),
        "steps": trainer.state.global_step,
        "step_s": watch.step_seconds,
        "step_tokens": watch.step_tokens,
        "epoch_s": watch.epoch_seconds,
        "train_s": train_seconds,
        "whole_s": time.perf_counter() - STARTED,
        "examples": {name: len(rows) for name, rows in features.items()},
        "tokens": {name: sum(len(row["input_ids"]) for row in rows) for name, rows in features.items()},
        "device": trainer.args.device.type,
        "memory_bytes": _gpu_bytes(trainer.args.device),
    }


def _tokenizer(settings: Settings) -> Any:
    """For tags, byte-level tokenizers put a space before each word, as run_ner.py of transformers has them do."""
    from transformers import AutoConfig, AutoTokenizer

    kind = AutoConfig.from_pretrained(settings.model, revision=settings.revision).model_type
    spaces: Any = {"add_prefix_space": True} if settings.task == "ner" and kind in _BYTE_LEVEL else {}
    revision = None if settings.tokenizer else settings.revision
    return AutoTokenizer.from_pretrained(settings.tokenizer or settings.model, revision=revision, **spaces)


def _model(settings: Settings) -> Any:
    """The pretrained model with a new head, and what is frozen of it."""
    from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

    auto: Any = AutoModelForTokenClassification if settings.task == "ner" else AutoModelForSequenceClassification
    model = auto.from_pretrained(
        settings.model,
        revision=settings.revision,
        num_labels=len(settings.labels),
        id2label=dict(enumerate(settings.labels)),
        label2id={name: number for number, name in enumerate(settings.labels)},
    )
    within = tuple(f"{name}." for name in settings.frozen)
    for name, parameter in model.named_parameters():
        if name in settings.frozen or name.startswith(within or ("\0",)):
            parameter.requires_grad = False
    return model


def _arguments(settings: Settings, folder: str, *, validates: bool) -> Any:
    from transformers import TrainingArguments

    best: Any = {"train_sampling_strategy": "group_by_length", "optim": "adamw_torch_fused"} if settings.best else {}
    validation: Any = {}
    if validates:
        validation = {"eval_strategy": "epoch", "load_best_model_at_end": True, "metric_for_best_model": "score"}
    return TrainingArguments(
        output_dir=folder,
        num_train_epochs=settings.num_train_epochs,
        max_steps=settings.max_steps,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.eval_batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        adam_beta1=settings.adam_betas[0],
        adam_beta2=settings.adam_betas[1],
        adam_epsilon=settings.adam_epsilon,
        lr_scheduler_type=settings.lr_scheduler_type,
        warmup_steps=settings.warmup_steps,
        max_grad_norm=settings.max_grad_norm,
        gradient_checkpointing=settings.gradient_checkpointing,
        save_strategy="epoch",
        save_total_limit=settings.save_total_limit,
        logging_steps=settings.logging_steps,
        include_num_input_tokens_seen="non_padding",
        report_to=[],
        seed=settings.seed,
        use_cpu=settings.use_cpu,
        bf16=settings.bf16,
        torch_compile=settings.torch_compile,
        disable_tqdm=True,
        **validation,
        **best,
    )


def _metric(settings: Settings) -> Any:
    """`compute_metrics` for the Trainer."""
    import numpy as np
    from seqeval.metrics import f1_score
    from sklearn.metrics import f1_score as f1_of_classes

    def entity_f1(prediction: Any) -> dict[str, float]:
        pairs = list(zip(prediction.label_ids, np.argmax(prediction.predictions, axis=-1), strict=True))
        names = settings.labels
        gold = [[names[g] for g in row if g != IGNORED] for row, _ in pairs]
        told = [[names[p] for g, p in zip(row, guess, strict=True) if g != IGNORED] for row, guess in pairs]
        return {"score": float(f1_score(gold, told))}

    def of_classes(prediction: Any) -> dict[str, float]:
        best = np.argmax(prediction.predictions, axis=-1)
        if settings.metric == "accuracy":
            return {"score": float((best == prediction.label_ids).mean())}
        return {"score": float(f1_of_classes(prediction.label_ids, best, average="macro"))}

    return entity_f1 if settings.task == "ner" else of_classes


def _watch() -> Any:
    """A callback that takes the time of each step, from the end of the one before: its batch is made within it."""
    import torch
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def __init__(self) -> None:
            self.step_seconds: list[float] = []
            self.step_tokens: list[int] = []
            self.epoch_seconds: list[float] = []
            self.seen = 0

        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            self.epoch_started = self.step_started = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step in (1, state.max_steps) and torch.cuda.is_available():
                torch.cuda.synchronize()
            now = time.perf_counter()
            self.step_seconds.append(now - self.step_started)
            self.step_tokens.append(int(state.num_input_tokens_seen) - self.seen)
            self.step_started, self.seen = now, int(state.num_input_tokens_seen)

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            self.epoch_seconds.append(time.perf_counter() - self.epoch_started)

    return Watch()


def _gpu_bytes(device: Any) -> int | None:
    """Peak memory on the GPU; None where another device computed."""
    import torch

    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None


def _read(folder: Path) -> dict[str, Rows]:
    files = {name: folder / f"{name}.jsonl" for name in ("train", "validation", "test")}
    return {
        name: [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        for name, path in files.items()
        if path.exists()
    }


def _encode_tags(row: dict[str, Any], tokenizer: Any, ids: dict[str, int], most: int) -> dict[str, Any]:
    encoded = tokenizer(row["tokens"], is_split_into_words=True, truncation=True, max_length=most)
    labels, before = [], None
    for word in encoded.word_ids():
        labels.append(IGNORED if word is None or word == before else ids[row["tags"][word]])
        before = word
    return {**encoded, "labels": labels}


def _encode_text(row: dict[str, Any], tokenizer: Any, ids: dict[str, int], most: int) -> dict[str, Any]:
    return {**tokenizer(row["text"], truncation=True, max_length=most), "labels": ids[row["label"]]}


if __name__ == "__main__":
    main()
