"""What a user would otherwise write: fine-tuning with the Hugging Face Trainer, for `compare_trainer.py` and
`bench_prefix.py`.

Reads JSON lines (`tokens` and `tags`, or `text` and `label`) so that both tools see the same examples, trains with
the Trainer's ordinary settings and prints one JSON line: test score, seconds of training and of each epoch, seconds in all.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

STARTED = time.perf_counter()


def main() -> None:
    arguments = _arguments()
    import numpy as np
    from seqeval.metrics import f1_score
    from transformers import (
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
        AutoTokenizer,
        DataCollatorForTokenClassification,
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
        TrainingArguments,
        set_seed,
    )

    set_seed(arguments.seed)
    tagging = arguments.task == "ner"
    splits = {name: _read(arguments.data / f"{name}.jsonl") for name in ("train", "validation", "test")}
    names = _labels(splits["train"], tagging=tagging)
    ids = {name: number for number, name in enumerate(names)}
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    encode = _encode_tags if tagging else _encode_text
    features = {name: [encode(row, tokenizer, ids) for row in rows] for name, rows in splits.items()}
    head = AutoModelForTokenClassification if tagging else AutoModelForSequenceClassification
    model = head.from_pretrained(arguments.model, num_labels=len(names), id2label=dict(enumerate(names)), label2id=ids)

    if arguments.frozen_blocks is not None:
        still = [model.base_model.embeddings, *model.base_model.encoder.layer[: arguments.frozen_blocks]]
        for parameter in (parameter for module in still for parameter in module.parameters()):
            parameter.requires_grad = False

    class Epochs(TrainerCallback):
        """Seconds of each epoch, without its evaluation."""

        seconds: ClassVar[list[float]] = []

        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            self.seconds.append(time.perf_counter() - self.started)

    def entity_f1(prediction: Any) -> dict[str, float]:
        best = np.argmax(prediction.predictions, axis=-1)
        pairs = list(zip(prediction.label_ids, best, strict=True))
        gold = [[names[g] for g in row if g != -100] for row, _ in pairs]
        told = [[names[p] for g, p in zip(row, guess, strict=True) if g != -100] for row, guess in pairs]
        return {"score": float(f1_score(gold, told))}

    def accuracy(prediction: Any) -> dict[str, float]:
        return {"score": float((np.argmax(prediction.predictions, axis=-1) == prediction.label_ids).mean())}

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                num_train_epochs=arguments.epochs,
                per_device_train_batch_size=arguments.batch_size,
                per_device_eval_batch_size=64,
                learning_rate=arguments.lr,
                weight_decay=0.01,
                warmup_steps=0.1,
                lr_scheduler_type="linear",
                eval_strategy="epoch",
                save_strategy="epoch",
                save_total_limit=1,
                load_best_model_at_end=True,
                metric_for_best_model="score",
                logging_steps=50,
                report_to=[],
                seed=arguments.seed,
                use_cpu=arguments.cpu,
                disable_tqdm=True,
                **({"train_sampling_strategy": "group_by_length"} if arguments.group_by_length else {}),
            ),
            train_dataset=features["train"],
            eval_dataset=features["validation"],
            data_collator=(DataCollatorForTokenClassification if tagging else DataCollatorWithPadding)(tokenizer),
            compute_metrics=entity_f1 if tagging else accuracy,
            callbacks=[Epochs],
        )
        started = time.perf_counter()
        trainer.train()
        train_seconds = time.perf_counter() - started
        scores = trainer.evaluate(features["test"])
    whole = time.perf_counter() - STARTED
    times = {"train_s": train_seconds, "whole_s": whole, "epoch_s": Epochs.seconds}
    print(json.dumps({"score": scores["eval_score"], **times}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=["ner", "classify"], required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--epochs", type=float, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--group-by-length", action="store_true")
    parser.add_argument("--frozen-blocks", type=int, help="freeze the embeddings and this many blocks")
    return parser.parse_args()


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _labels(rows: list[dict[str, Any]], *, tagging: bool) -> list[str]:
    found = {tag for row in rows for tag in row["tags"]} if tagging else {row["label"] for row in rows}
    return sorted(found, key=lambda tag: (tag != "O", tag))


def _encode_tags(row: dict[str, Any], tokenizer: Any, ids: dict[str, int]) -> dict[str, Any]:
    encoded = tokenizer(row["tokens"], is_split_into_words=True, truncation=True, max_length=512)
    labels, before = [], None
    for word in encoded.word_ids():
        labels.append(-100 if word is None or word == before else ids[row["tags"][word]])
        before = word
    return {**encoded, "labels": labels}


def _encode_text(row: dict[str, Any], tokenizer: Any, ids: dict[str, int]) -> dict[str, Any]:
    return {**tokenizer(row["text"], truncation=True, max_length=512), "labels": ids[row["label"]]}


if __name__ == "__main__":
    main()
