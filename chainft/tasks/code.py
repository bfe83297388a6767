"""Code: a language model learns to write Python for a prompt; its answers can be run against tests (`execute`).

Nothing is ever run unless `task.execute=true` says so; what the sandbox guarantees stands in `_sandbox`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from chainft.config.no_effect import no_effect
from chainft.config.ranges import Count, Limits, Positive
from chainft.config.run import TaskConfig
from chainft.data.example import Example, Finding, Split
from chainft.errors import Problem
from chainft.metrics.pass_at_k import PassAtK
from chainft.metrics.text import chrf
from chainft.tasks._code_tests import Samples, Wanted, judge, test_problems, tests_of
from chainft.tasks._generation_settings import TextToTextConfig
from chainft.tasks._sandbox import Sandbox, guarantees
from chainft.tasks._text_to_text import TextToText
from chainft.tasks.base import About, Arrays, Baseline, Field, Metric, Mistake, Prediction
from chainft.text.inputs import checked_text, take, text_example
from chainft.text.nearest import nearest
from chainft.text.python_code import answer_of, open_function, program_of, same_code

if TYPE_CHECKING:
    import numpy as np

    from chainft.data.batching import Batch

logger = logging.getLogger(__name__)

_PROMPT = Field("prompt", "text", aliases=("text", "instruction", "question", "input"))
_SOLUTION = Field(
    "solution", "text", aliases=("code", "canonical_solution", "completion", "response", "output"), gold=True
)
_OPTIONAL = (
    Field("tests", "value", required=False, aliases=("test", "test_list"), gold=True),
    Field("setup", "value", required=False, aliases=("test_setup_code", "test_imports"), gold=True),
    Field("entry_point", "text", required=False, gold=True),
    Field("language", "text", required=False, gold=True),
)
_SWITCH = "set task.execute=true to run what models write in a sandbox (see the README for what it guarantees)"
_LEAST_MEMORY = 64 << 20


@dataclass(frozen=True, kw_only=True)
class CodeConfig(TextToTextConfig):
    """Python code for a prompt."""

    name: str = "code"
    max_new_tokens: Count = 256
    """Most tokens of a generated answer."""
    execute: bool = False
    """Run the code that the model writes against the tests of its example, in a sandbox; false: nothing is run."""
    num_samples: Count = 1
    """With `execute`: answers to each prompt in evaluation, of which pass@k is estimated; several need do_sample."""
    k: tuple[Count, ...] | None = None
    """With `execute`: the numbers of tries for which pass@k is told; default: 1."""
    timeout_s: Positive | None = None
    """With `execute`: wall time in seconds that one program may take; default 5."""
    memory_bytes: Annotated[int, Limits(low=_LEAST_MEMORY)] | None = None
    """With `execute`: address space of one program; default 512 MiB."""

    @property
    def tries(self) -> tuple[int, ...]:
        """`k`, or its default."""
        return (1,) if self.k is None else tuple(sorted(set(self.k)))

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if not self.execute:
            yield from self._idle()
            return
        if sys.platform == "win32":
            yield Problem("unsupported", "task.execute=true: there is no sandbox for Windows", key="task.execute")
        if not self.generate_in_evaluation:
            because = "evaluation writes no answers"
            yield no_effect("task.execute", True, because, "set task.generate_in_evaluation=true")
        if not self.tries or max(self.tries) > self.num_samples:
            message = f"task.k = {list(self.tries)}: pass@k needs at least k of task.num_samples = {self.num_samples}"
            help = f"set task.num_samples={max(self.tries, default=1)} or more"
            yield Problem("contradiction", message, key="task.k", help=help)
        if not self.do_sample and self.num_samples > self.num_beams:
            message = f"task.num_samples = {self.num_samples}, but the likeliest answer is always the same"
            help = "set task.do_sample=true and, for example, task.temperature=0.8"
            yield Problem("contradiction", message, key="task.num_samples", help=help)

    def _idle(self) -> Iterator[Problem]:
        for name in ("num_samples", "k", "timeout_s", "memory_bytes"):
            if getattr(self, name) != getattr(CodeConfig, name):
                yield no_effect(f"task.{name}", getattr(self, name), "task.execute=false runs nothing", _SWITCH)
        if "pass_at_k" in (self.metrics or ()):
            message = "task.metrics has pass_at_k, but task.execute=false runs no test"
            yield Problem("contradiction", message, key="task.metrics", help=_SWITCH)


class Code(TextToText):
    """Prompts and Python solutions. The best checkpoint has the best pass@k, or chrF where nothing is run."""

    config_class: ClassVar[type[TaskConfig]] = CodeConfig
    config: CodeConfig
    source_field: ClassVar[Field] = _PROMPT
    target_field: ClassVar[Field] = _SOLUTION
    fields: ClassVar[tuple[Field, ...]] = (_PROMPT, _SOLUTION, *_OPTIONAL)
    answer: ClassVar[str] = "code"
    main_metric: ClassVar[str] = "chrf"
    metric_family: ClassVar[str] = "code"
    about: ClassVar[About] = About(
        "Code generation",
        purpose="writes Python code for prompts",
        sample="Write a function double(x) that returns twice its argument.",
        pipeline="text-generation",
        limit="Its code can be wrong or harmful: read it before you run it, and run it only where it can do no harm.",
    )
    default_model: ClassVar[str] = "smollm2"
    default_metrics: ClassVar[tuple[str, ...]] = ("code",)

    def __init__(self, config: CodeConfig) -> None:
        super().__init__(config)
        self._told = False
        if config.execute:
            self.main_metric = f"pass_at_{config.tries[0]}"  # type: ignore[misc]

    # Data ---------------------------------------------------------------------------------------

    def validate(self, example: Example) -> Iterator[Problem]:
        yield from super().validate(example)
        yield from test_problems(example)

    def contract(self, splits: Mapping[Split, Sequence[Example]]) -> Iterator[Finding]:
        """Whether tests are run; where they are, the reference solutions that do not stand their own."""
        yield from super().contract(splits)
        self._told = True
        tested = {split: [one for one in examples if tests_of(one)] for split, examples in splits.items()}
        count = sum(map(len, tested.values()))
        if not self.config.execute:
            if count:
                message = f"the tests of {count} examples are not run: scores compare texts only"
                yield Finding("tests-not-run", "info", message, None, _SWITCH, count)
            return
        if "namespaces" not in guarantees() or "landlock" not in guarantees():
            message = (
                f"the kernel adds {', '.join(guarantees()) or 'nothing'} to the sandbox, not namespaces and landlock"
            )
            yield Finding("weak-sandbox", "warning", message, None, "run in a container without what you must keep")
        for split, examples in splits.items():
            if missing := len(examples) - len(tested[split]):
                message = f"{split}: {missing} of {len(examples)} examples have no tests: pass@k leaves them out"
                yield Finding("no-tests", "warning", message, None, "name the column by data.columns.tests", missing)
            yield from self._failing(split, tested[split])

    def _failing(self, split: Split, examples: Sequence[Example]) -> Iterator[Finding]:
        """Reference solutions that their own tests refuse."""
        logger.info("%s: %d reference solutions are run against their tests", split, len(examples))
        found = [judge(one, [one.values["solution"]], self._sandbox)[0] for one in examples]
        failing = [pair for pair in zip(examples, found, strict=True) if pair[1].outcome != "passed"]
        if failing:
            first, result = failing[0]
            message = (
                f"{split}: {len(failing)} of {len(examples)} reference solutions do not stand their tests "
                f"(the first: {result.outcome}, {result.message})"
            )
            help = "mend solution or tests; the sandbox has Python's standard library only"
            yield Finding("failing-solution", "warning", message, first.where(), help, len(failing))

    @cached_property
    def _sandbox(self) -> Sandbox:
        given = {"timeout_s": self.config.timeout_s, "memory_bytes": self.config.memory_bytes}
        return Sandbox(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]

    # Prediction ---------------------------------------------------------------------------------

    def num_answers(self, batch: Batch) -> int:
        return self.config.num_samples if batch.has_targets else self.config.num_return_sequences

    def to_text(self, ids: np.ndarray) -> str:
        """Blanks at the beginning are kept: they are part of the code."""
        text = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text).rstrip()

    def decode(self, example: Example, windows: Sequence[Arrays], raw: Sequence[Any]) -> Prediction:
        """The code of the answer; where its prompt begins a function, the whole `program`; of several answers all in
        `candidates`. With `execute` and tests: `outcomes` of each, and the `message` of the first."""
        prediction = super().decode(example, windows, raw)
        if raw[0] is None:
            return prediction
        prompt = example.values["prompt"]
        answers = [answer_of(self.to_text(ids), prompt) for ids in raw[0]]
        prediction["code"] = answers[0]
        if len(answers) > 1:
            prediction["candidates"] = answers
        if open_function(prompt):
            prediction["program"] = program_of(answers[0], prompt)
        if tests_of(example):
            if self.config.execute:
                results = judge(example, answers, self._sandbox)
                prediction["outcomes"] = [one.outcome for one in results]
                prediction["message"] = results[0].message
            elif not self._told:
                self._told = True
                logger.warning("the tests of examples are not run; %s", _SWITCH)
        return prediction

    def read_input(self, value: str | Mapping[str, Any], *, where: str) -> Example:
        """A line of text, or an object with the prompt and, to try answers at once, tests, setup and entry_point."""
        if isinstance(value, str):
            return text_example({"prompt": checked_text(value, "the prompt", where=where)}, where)
        prompt = take(value, (_PROMPT.name, *_PROMPT.aliases), where=where)
        found = {"prompt": checked_text(prompt, "the prompt", where=where)}
        for field in _OPTIONAL[:3]:
            name = next((one for one in (field.name, *field.aliases) if one in value), None)
            if name is not None:
                found[field.name] = value[name]
        return text_example(found, where)

    # Scores -------------------------------------------------------------------------------------

    @property
    def metric_names(self) -> tuple[str, ...]:
        names = super().metric_names
        return (*names, "pass_at_k") if self.config.execute and self.config.metrics is None and names else names

    def metrics(self) -> list[Metric]:
        found = super().metrics()
        for metric in found:
            if isinstance(metric, PassAtK):
                metric.tries = self.config.tries
        return found

    def gold(self, example: Example) -> Wanted:
        solution = example.values["solution"]
        return {"solution": solution, "program": program_of(solution, example.values["prompt"])}

    def predicted(self, prediction: Prediction) -> Samples:  # type: ignore[override]
        code, outcomes = prediction["code"] or "", prediction.get("outcomes")
        program = program_of(code, prediction["prompt"])
        return Samples(code, program, None if outcomes is None else tuple(outcomes))

    def baselines(self, train: Sequence[Example]) -> Mapping[str, Baseline]:
        """`empty`: a function that does nothing; `nearest`: the code of the most alike prompt of train."""
        find = nearest([_words(one) for one in train])

        def of_nearest(example: Example) -> Samples:
            number = find(_words(example))
            return self._judged(example, "" if number is None else train[number].values["solution"])

        return {"empty": lambda one: self._judged(one, _empty(one)), "nearest": of_nearest}

    def _judged(self, example: Example, answer: str) -> Samples:
        """An answer as all samples of an example."""
        outcomes = None
        if self.config.execute and tests_of(example):
            (result,) = judge(example, [answer], self._sandbox)
            outcomes = (result.outcome,) * self.config.num_samples
        return Samples(answer, program_of(answer, example.values["prompt"]), outcomes)

    def mistake(self, example: Example, prediction: Prediction) -> Mistake | None:
        """By its outcome where it was run, else by its chrF to the solution where it is another code."""
        wanted, outcomes = self.gold(example), prediction.get("outcomes")
        given = prediction["code"]
        if given is None or (outcomes and outcomes[0] == "passed"):
            return None
        if outcomes:
            shown = f"{given}\n# {outcomes[0]}: {prediction['message']}"
            return Mistake(2 - chrf(wanted["solution"], given), example.values["prompt"], wanted["solution"], shown)
        if same_code(wanted["program"], self.predicted(prediction).program):
            return None
        return Mistake(1 - chrf(wanted["solution"], given), example.values["prompt"], wanted["solution"], given)


def _words(example: Example) -> list[str]:
    return str(example.values["prompt"]).casefold().split()


def _empty(example: Example) -> str:
    """The least code that defines what is asked for."""
    prompt = example.values["prompt"]
    name = open_function(prompt) or example.values.get("entry_point")
    return "    pass" if open_function(prompt) else f"def {name}(*arguments):\n    pass" if name else "pass"


PLUGIN = Code
