"""Question answering: finds the stretch of a context that answers a question, or says that there is none.

Where question and context are longer than the model reads, the context becomes overlapping windows. A window that does
not hold the answer points to its first token (Devlin et al. 2019, arXiv:1810.04805, appendix A.5 and section 4.3). Every
question weighs 1 in the loss, however long its context is: where some of its windows hold the answer and some do not, each
kind shares one half. Shapes: B windows, L tokens.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from chainft.config.run import TaskConfig
from chainft.data.example import Example, Finding, Split
from chainft.errors import ConfigError, DataError, Problem
from chainft.metrics.base import make_metrics
from chainft.tasks._qa_baselines import guessers
from chainft.tasks._qa_config import QaConfig
from chainft.tasks._qa_findings import findings
from chainft.tasks.base import (
    AUTO,
    About,
    Arrays,
    Baseline,
    Column,
    Field,
    Labels,
    Mark,
    Metric,
    Mistake,
    Prediction,
    Task,
)
from chainft.text.answers import answers_of, find_answers
from chainft.text.best_answers import Raw, best_threshold, join, null_score, predicted
from chainft.text.inputs import checked_text, take, text_example, text_problems
from chainft.text.passages import Passages, Role, targets
from chainft.text.same_answers import Units, best_of
from chainft.text.scripts import is_spaceless

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from chainft.data.batching import Batch

IGNORED = -100
LEAST_CANDIDATES = 20
"""So many stretches of each window compete, or more where more answers are wanted (20 in BERT's run_squad.py)."""
_GIVEN = ("question", "context")
ANSWERABLE, UNANSWERABLE = "answerable", "unanswerable"
_NONE = "(no answer)"
_SAMPLE = {"question": "Where did Ada Lovelace live?", "context": "Ada Lovelace was born in 1815 and lived in London."}


class Qa(Task):
    """Questions with contexts; answers are texts with their places, see `chainft.text.answers`."""

    config_class: ClassVar[type[TaskConfig]] = QaConfig
    fields: ClassVar[tuple[Field, ...]] = (
        Field("question", "text", aliases=("query",)),
        Field("context", "text", aliases=("passage", "paragraph")),
        Field("answers", "value", aliases=("answer",), gold=True),
        Field("answer_start", "value", required=False, gold=True),
    )
    features: ClassVar[Mapping[str, Column]] = {
        "input_ids": Column("pad_token", model_input=True),
        "token_type_ids": Column(0, model_input=True),
        "roles": Column(0),
        "char_starts": Column(-1),
        "char_ends": Column(-1),
        "labels": Column(IGNORED, axis="ends"),
        "window_weight": Column(0, dtype="float32", axis=None),
    }
    auto_class: ClassVar[str] = "AutoModelForQuestionAnswering"
    main_metric: ClassVar[str] = "answer_f1"
    metric_family: ClassVar[str] = "answer"
    about: ClassVar[About] = About(
        title="Question answering",
        purpose="finds the answers to questions in texts",
        sample=json.dumps(_SAMPLE),
        limit="It quotes the given text and nothing else: what the text gets wrong, or does not say, it cannot know.",
    )
    tuned_fields: ClassVar[tuple[str, ...]] = ("null_threshold",)
    config: QaConfig
    _passages: Passages

    def __init__(self, config: QaConfig) -> None:
        super().__init__(config)
        if problems := list(config.without_effect()):
            raise ConfigError.of(problems)
        self.metrics()  # A wrong name is found here.

    # Data ---------------------------------------------------------------------------------------

    def validate(self, example: Example) -> Iterator[Problem]:
        values, where = example.values, example.where()
        wrong = [one for name in _GIVEN for one in text_problems(values[name], name, where)]
        if not wrong:
            wrong = [_empty(name, where) for name in _GIVEN if not values[name].strip()]
        if not wrong:
            found = find_answers(example)
            wrong = found.problems
            if not (wrong or found.answers) and self.config.unanswerable is False:
                help = "task.unanswerable=auto learns from such questions that there is no answer"
                wrong = [Problem("no-answer", "the question has no answer", where, "task.unanswerable", help)]
        yield from wrong

    def learn_labels(self, splits: Mapping[Split, Sequence[Example]], *, unseen: Literal["error", "allow"]) -> None:
        """There are none; how many questions of training have an answer tells whether the model may say that none is."""
        self.labels = Labels((), Counter(map(self.stratum, splits.get("train", ()))))

    @property
    def may_abstain(self) -> bool:
        """Whether a prediction may be that there is no answer."""
        chosen = self.config.unanswerable
        return chosen if isinstance(chosen, bool) else self.labels.counts.get(UNANSWERABLE, 0) > 0

    def contract(self, splits: Mapping[Split, Sequence[Example]]) -> Iterator[Finding]:
        passages = getattr(self, "_passages", None)
        yield from findings(splits, passages, self.config.max_answer_tokens, may_abstain=self.may_abstain)

    def stratum(self, example: Example) -> str:
        return ANSWERABLE if answers_of(example) else UNANSWERABLE

    # Features -----------------------------------------------------------------------------------

    def prepare(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> None:
        """Raises ConfigError for an overlap that does not fit, and for a threshold where there always is an answer."""
        if not self.may_abstain and self.config.null_threshold != AUTO:
            raise ConfigError(
                "task.null_threshold has no effect: every training question has an answer",
                slug="no-effect",
                key="task.null_threshold",
                help="leave it away, or let the model say that there is no answer by task.unanswerable=true",
            )
        super().prepare(tokenizer, max_length=max_length)
        overflow, overlap = self.config.overflow, self.config.window_overlap
        self._passages = Passages.of(tokenizer, max_length, overflow=overflow, overlap=overlap)

    def encode(self, example: Example) -> list[Arrays]:
        """`labels` (2,) are the first and the last token of the answer; -100 in all windows of one that none holds."""
        question = self._passages.question(example.values["question"])
        context = self._passages.context(example.values["context"])
        windows = self._passages.windows(question, context, example.where())
        made = [self._passages.feature(question, context, window) for window in windows]
        features = [arrays for arrays, _ in made]
        if "answers" in example.values:
            spans = [context.span(answer) for answer in answers_of(example)]
            for arrays, one in zip(features, targets(spans, windows, [begin for _, begin in made]), strict=True):
                places = (one.start, one.end) if one.weight else (IGNORED, IGNORED)
                arrays["labels"] = np.array(places, np.int32)
                arrays["window_weight"] = np.array([one.weight], np.float32)
        return features

    def num_tokens(self, example: Example) -> int:
        return self._passages.num_tokens(example.values["question"], example.values["context"])

    # Model --------------------------------------------------------------------------------------

    def model_options(self) -> dict[str, Any]:
        """Heads have one output for starts and one for ends, which transformers counts as labels."""
        return {"num_labels": 2}

    def loss(self, output: Any, batch: Batch) -> Tensor:
        """Mean of the cross-entropies of start and end over the tokens that may be an answer, by windows' weights."""
        from chainft.models.spans import span_losses

        labels = batch.targets["labels"].clamp(min=0)  # (B, 2); where there is none, the weight is 0.
        losses = span_losses(output.start_logits, output.end_logits, _is(Role.CANDIDATE, batch), labels)
        return (losses * batch.targets["window_weight"].squeeze(1)).sum()

    def num_targets(self, batch: Batch) -> float:
        """Questions: the weights of windows."""
        return float(batch.targets["window_weight"].double().sum())

    # Prediction ---------------------------------------------------------------------------------

    def raw(self, output: Any, batch: Batch) -> Sequence[Raw]:
        """The best stretches of each window."""
        from chainft.models.spans import best_spans

        spans = best_spans(
            (output.start_logits, output.end_logits),
            _is(Role.CANDIDATE, batch),
            (_is(Role.START, batch), _is(Role.END, batch)),
            longest=self.config.max_answer_tokens,
            most=max(LEAST_CANDIDATES, 2 * self.config.num_best),
        )
        scores, starts, ends, null = (tensor.cpu().numpy() for tensor in spans)
        there = np.isfinite(scores)
        return [
            Raw(scores[row, kept], starts[row, kept], ends[row, kept], float(null[row]))
            for row, kept in enumerate(there)
        ]

    def decode(self, example: Example, windows: Sequence[Arrays], raw: Sequence[Any]) -> Prediction:
        """`answer`, `score`, `start` and `end` (characters), `n_best`; see `chainft.text.best_answers.predicted`."""
        context, threshold = example.values["context"], self.config.null_threshold
        found = predicted(
            join(windows, raw, context),
            context,
            null=null_score(raw) if self.may_abstain else None,
            threshold=0.0 if isinstance(threshold, str) else threshold,
            most=self.config.num_best,
        )
        return {"question": example.values["question"], "context": context, **found}

    def read_input(self, value: str | Mapping[str, Any], *, where: str) -> Example:
        """An object with `question` and `context`, or such an object as a line of JSON."""
        values = _object(value, where) if isinstance(value, str) else value
        texts = {}
        for field in self.fields[: len(_GIVEN)]:
            given = take(values, (field.name, *field.aliases), where=where)
            texts[field.name] = checked_text(given, field.name, where=where)
        if empty := [_empty(name, where) for name, text in texts.items() if not text.strip()]:
            raise DataError.of(empty)
        return text_example(texts, where)

    # Scores -------------------------------------------------------------------------------------

    def gold(self, example: Example) -> dict[str, Any]:
        """What `chainft.metrics.squad` takes."""
        return {
            "question": example.values["question"],
            "answers": [answer.text for answer in answers_of(example)],
            "context_length": len(example.values["context"]),
            "compared": self._compared(example),
        }

    def predicted(self, prediction: Prediction) -> str:
        return str(prediction["answer"])

    def metrics(self) -> list[Metric]:
        return make_metrics(self.config.metrics, self.metric_family)

    def baselines(self, train: Sequence[Example]) -> Mapping[str, Baseline]:
        """Guesses by words in common; see `chainft.tasks._qa_baselines`."""
        return guessers([example.values["context"] for example in train], may_abstain=self.may_abstain)

    @property
    def needs_tuning(self) -> bool:
        return self.may_abstain and super().needs_tuning

    def tuned(self, pairs: Iterable[tuple[Example, Prediction]]) -> TaskConfig:
        """The threshold with the best F1."""
        questions = []
        for example, prediction in pairs:
            answers, compared = [one.text for one in answers_of(example)], self._compared(example)
            best = next((one["answer"] for one in prediction["n_best"] if one["answer"]), None)
            if best is not None:
                points = best_of(answers, best, compared)[1]
                questions.append((prediction["null_score_difference"], points, float(not answers)))
        return replace(self.config, null_threshold=best_threshold(questions))

    def mistake(self, example: Example, prediction: Prediction) -> Mistake | None:
        """Worst is the surest answer that has nothing in common with the gold ones."""
        gold, answer = self.gold(example), self.predicted(prediction)
        exact, f1 = best_of(gold["answers"], answer, gold["compared"])
        if exact:
            return None
        question, shift = example.values["question"], len(example.values["question"]) + 1
        places = dict.fromkeys((one.start, one.end) for one in answers_of(example))
        asked = Mark(0, len(question), "question")  # So that a long context does not hide it.
        return Mistake(
            (1 - f1) * prediction["score"],
            f"{question}\n{example.values['context']}",
            "; ".join(dict.fromkeys(gold["answers"])) or _NONE,
            answer or _NONE,
            (asked, *(Mark(shift + start, shift + end, "answer") for start, end in places)),
            (asked, *([Mark(shift + prediction["start"], shift + prediction["end"], "answer")] if answer else [])),
        )

    def _compared(self, example: Example) -> Units:
        if self.config.compare != "auto":
            return self.config.compare
        return "characters" if is_spaceless(example.values["context"]) else "words"


def _is(role: Role, batch: Batch) -> Tensor:
    """(B, L) which tokens have a role."""
    found: Tensor = (batch.targets["roles"] & int(role)) > 0
    return found


def _empty(name: str, where: str) -> Problem:
    return Problem(f"empty-{name}", f"the {name} is empty", where, help="write it, or leave the row out")


def _object(line: str, where: str) -> Mapping[str, Any]:
    try:
        value = json.loads(line) if line.lstrip().startswith("{") else None
    except (ValueError, RecursionError) as error:
        raise DataError(f"not a JSON object: {error}", slug="bad-json", where=where) from error
    if isinstance(value, dict):
        return value
    raise DataError(
        "a line of text is not enough: a question needs the context in which its answer is to be found",
        slug="no-context",
        where=where,
        help=f"give a JSON object: {json.dumps(_SAMPLE)}",
    )


PLUGIN = Qa
