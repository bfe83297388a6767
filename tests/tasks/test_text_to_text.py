"""What all tasks share that write texts: the same on decoders and encoder-decoders, whatever the batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, GenerationConfig, PreTrainedModel

from chainft.config.parse import parse
from chainft.config.run import ModelConfig
from chainft.data.batching import collate
from chainft.data.example import Example, Origin
from chainft.errors import ConfigError, DataError, ModelError
from chainft.models.load import load_config, load_model
from chainft.models.sampling import RowNoise
from chainft.tasks.generate import Generate, GenerateConfig

Writer = Callable[[str], Path]
DECODERS, PAIRS = ("llama", "gpt2"), ("t5", "bart", "marian", "m2m_100")
TEXTS = [
    "anna visited",
    "the old city of david and emil",
    "oslo",
    "a good house near the company of clara , yesterday !",
]
DATA = [
    Example({"prompt": text, "response": response}, Origin("data.jsonl", number))
    for number, (text, response) in enumerate(zip(TEXTS, ["paris", "lima is near", "a good city", "bad"], strict=True))
]


def make(folder: Path, *, max_length: int = 48, **settings: Any) -> tuple[Generate, PreTrainedModel]:
    task = Generate(parse(GenerateConfig, {"name": "generate", "max_new_tokens": 8, **settings}))
    task.adapt(load_config(ModelConfig(path=str(folder))))
    task.prepare(AutoTokenizer.from_pretrained(folder), max_length=max_length)
    return task, load_model(ModelConfig(path=str(folder)), task, seed=0).model.eval()


def without_gold(example: Example) -> Example:
    return Example({"prompt": example.values["prompt"]}, example.origin)


def answers(task: Generate, model: PreTrainedModel, examples: Sequence[Example]) -> list[list[list[int]]]:
    """Row -> answer -> tokens, as prediction gives them."""
    rows = [task.encode(without_gold(one))[0] for one in examples]
    with torch.inference_mode():
        result = task.infer(model, task.collate(rows, range(len(rows))))
    return [[answer.tolist() for answer in row] for row in result.raw]


def reference(model: PreTrainedModel, ids: Sequence[int], **settings: Any) -> list[list[int]]:
    """What `model.generate` says to one source, without start and end."""
    given = torch.tensor([list(ids)])
    config = GenerationConfig(
        **{**model.generation_config.to_dict(), "max_new_tokens": 8, "max_length": None, **settings}
    )
    output = model.generate(given, attention_mask=torch.ones_like(given), generation_config=config)
    start = 1 if model.config.is_encoder_decoder else len(ids)
    found = []
    for row in output[:, start:].tolist():
        found.append(row[: row.index(3)] if 3 in row else row)
    return found


@pytest.mark.parametrize("kind", DECODERS + PAIRS)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_beams": 3, "length_penalty": 2.0, "num_return_sequences": 2},
        {"min_new_tokens": 4, "no_repeat_ngram_size": 2},
    ],
    ids=["greedy", "beams", "limits"],
)
def test_a_batch_is_answered_as_generate_answers_each_source_alone(
    writer: Writer, kind: str, settings: dict[str, Any]
) -> None:
    task, model = make(writer(kind), **settings)
    wanted = [reference(model, task.encode(without_gold(one))[0]["input_ids"].tolist(), **settings) for one in DATA]
    assert answers(task, model, DATA) == wanted
    assert len({tuple(row[0]) for row in wanted}) > 1, "the model says the same to everything"


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_draws_depend_on_seed_and_source_only(writer: Writer, kind: str) -> None:
    settings = {"do_sample": True, "temperature": 2.0, "num_return_sequences": 3}
    task, model = make(writer(kind), **settings)
    together = answers(task, model, DATA)
    assert together == [answers(task, model, [one])[0] for one in DATA]
    assert together[::-1] == answers(task, model, DATA[::-1])
    assert len({tuple(one) for row in together for one in row}) > 6
    first, _ = make(writer(kind), **settings | {"num_return_sequences": 1})
    assert answers(first, model, DATA) == [row[:1] for row in together], "more answers change the first"
    other, _ = make(writer(kind), **settings, sampling_seed=1)
    assert answers(other, model, DATA) != together


@pytest.fixture(scope="module")
def alone(writer: Writer) -> dict[str, Any]:
    """For each kind of model a task that draws, its model, and what it says to each source by itself."""
    found: dict[str, Any] = {}
    for kind in ("llama", "t5"):
        task, model = make(writer(kind), do_sample=True, top_k=20, num_return_sequences=2)
        found[kind] = (task, model, [answers(task, model, [one])[0] for one in DATA])
    return found


@settings(max_examples=15, deadline=None)
@given(kind=st.sampled_from(["llama", "t5"]), rows=st.lists(st.integers(0, len(DATA) - 1), min_size=1, max_size=6))
def test_any_batch_gives_each_source_the_same_draws(alone: dict[str, Any], kind: str, rows: list[int]) -> None:
    """Whatever else is in it, in any order, and however often the same source."""
    task, model, wanted = alone[kind]
    assert answers(task, model, [DATA[row] for row in rows]) == [wanted[row] for row in rows]


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"temperature": 1.0}, [0.5, 0.25, 0.125, 0.125]),
        ({"temperature": 0.5}, np.array([16, 4, 1, 1]) / 22),
        ({"top_k": 2}, [2 / 3, 1 / 3, 0, 0]),
        ({"top_p": 0.6}, [2 / 3, 1 / 3, 0, 0]),
    ],
)
def test_draws_have_the_probabilities_of_the_model(settings: dict[str, Any], wanted: Sequence[float]) -> None:
    from chainft.models.sampling import samplers

    draws = 4000
    options: dict[str, Any] = {"temperature": 1.0, "top_k": None, "top_p": None, **settings}
    processors = samplers([np.array([5, 6], np.int32)], count=draws, seed=3, **options)
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log().repeat(draws, 1)
    counts = Counter(processors(torch.zeros(draws, 1, dtype=torch.long), logits).argmax(1).tolist())
    assert [counts[token] / draws for token in range(4)] == pytest.approx(list(wanted), abs=0.03)


def test_noise_never_allows_a_forbidden_token() -> None:
    noise = RowNoise([torch.Generator().manual_seed(0)])
    scores = torch.tensor([[0.0, -torch.inf, 0.0]])
    assert all(noise(torch.zeros(1, 1), scores).argmax() != 1 for _ in range(200))


@pytest.mark.parametrize("kind", PAIRS)
def test_an_encoder_decoder_s_loss_is_that_of_the_model_on_the_target(writer: Writer, kind: str) -> None:
    """The model's own loss is the mean over the labels that it is given."""
    task, model = make(writer(kind))
    batch = task.collate([task.encode(one)[0] for one in DATA], range(len(DATA)))
    with torch.inference_mode():
        own = model(
            **{k: v for k, v in batch.inputs.items() if k != "decoder_input_ids"}, labels=batch.targets["labels"]
        )
        loss = task.loss(model(**task.arguments(batch)), batch)
        alone = [task.infer(model, task.collate(task.encode(one), [0])).losses[""] for one in DATA]
    assert float(loss) == pytest.approx(float(own.loss) * task.num_targets(batch), rel=1e-5)
    assert float(loss) == pytest.approx(sum(one for one, _ in alone), rel=1e-5), "padding changes the loss"
    assert task.num_targets(batch) == sum(count for _, count in alone)


@pytest.mark.parametrize("kind", PAIRS)
def test_source_and_target_are_sequences_of_their_own(writer: Writer, kind: str) -> None:
    task, _ = make(writer(kind))
    (feature,) = task.encode(DATA[1])
    tokens = task.tokenizer.convert_ids_to_tokens
    assert tokens(feature["input_ids"].tolist())[:3] == ["[CLS]", "the", "old"]
    assert tokens(feature["labels"].tolist()) == ["[CLS]", "lima", "i", "##s", "near", "[SEP]"]
    start = load_config(ModelConfig(path=str(writer(kind)))).decoder_start_token_id
    batch = task.collate([feature], [0])
    assert batch.inputs["decoder_input_ids"].tolist() == [[start, *feature["labels"][:-1].tolist()]]


def test_a_decoder_and_an_encoder_decoder_have_features_of_their_own(writer: Writer) -> None:
    assert make(writer("llama"))[0].feature_key != make(writer("t5"))[0].feature_key


@pytest.mark.parametrize(
    ("overflow", "wanted"),
    [
        ("truncate_start", ["[CLS]", "e", "##m", "good", "[SEP]"]),
        ("truncate_end", ["[CLS]", "anna", "e", "##m", "[SEP]"]),
    ],
)
def test_a_source_that_is_too_long_loses_the_end_that_was_chosen_and_says_so(
    writer: Writer, overflow: str, wanted: list[str]
) -> None:
    task, _ = make(writer("t5"), max_length=5, max_new_tokens=4, overflow=overflow)
    example = Example({"prompt": "anna em good", "response": "a"}, Origin("data.jsonl", 7))
    (feature,) = task.encode(example)
    assert task.tokenizer.convert_ids_to_tokens(feature["input_ids"].tolist()) == wanted
    (finding,) = task.contract({"train": [example, DATA[2]]})
    assert (finding.slug, finding.count, finding.where) == ("cut-source", 1, "data.jsonl:7")
    assert "(1 tokens in all)" in finding.message
    assert task.num_tokens(example) == len(feature["input_ids"]) + 1 + len(feature["labels"])
    assert task.decode(example, [feature], [None])["source_tokens_cut"] == 1


@pytest.mark.parametrize(("prompt", "response"), [("anna " * 9, "a"), ("a", "anna " * 9)])
def test_what_has_no_room_in_an_encoder_decoder_is_refused_at_its_place(
    writer: Writer, prompt: str, response: str
) -> None:
    task, _ = make(writer("bart"), max_length=8)
    with pytest.raises(DataError, match="has 11 tokens: more than 8") as caught:
        task.encode(Example({"prompt": prompt, "response": response}, Origin("data.jsonl", 4)))
    assert caught.value.problems[0].where == "data.jsonl:4"


def test_an_encoder_decoder_without_a_start_token_is_refused(writer: Writer) -> None:
    config = load_config(ModelConfig(path=str(writer("bart"))))
    config.decoder_start_token_id = None
    with pytest.raises(ModelError, match="decoder_start_token_id"):
        Generate(GenerateConfig()).adapt(config)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"temperature": 0.7}, "task.temperature"),
        ({"top_k": 5}, "task.top_k"),
        ({"top_p": 0.9}, "task.top_p"),
        ({"sampling_seed": 1}, "task.sampling_seed"),
        ({"length_penalty": 2.0}, "task.length_penalty"),
        ({"num_return_sequences": 2}, "task.num_return_sequences"),
        ({"num_beams": 2, "num_return_sequences": 3}, "task.num_return_sequences"),
        ({"do_sample": True, "num_beams": 2}, "task.num_beams"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, "task.min_new_tokens"),
        ({"generate_in_evaluation": False, "metrics": ["text"]}, "task.metrics"),
    ],
)
def test_settings_that_would_do_nothing_or_contradict_are_refused(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Generate(parse(GenerateConfig, {"name": "generate", **settings}))
    assert [one.key for one in caught.value.problems] == [key]


def test_an_instruction_stands_around_the_source_and_inside_the_template(tiny_decoder: Path) -> None:
    task, _ = make(tiny_decoder, instruction="the {prompt} at", template="a {prompt} near")
    (feature,) = task.encode(without_gold(DATA[2]))
    tokens = task.tokenizer.convert_ids_to_tokens(feature["input_ids"].tolist())
    assert tokens == ["[CLS]", "a", "the", "oslo", "at", "near"]
    encoded = task.encode_source(Example({"prompt": "the near"}, Origin("data.jsonl", 1)))
    assert (encoded.start, encoded.end) == (3, 5), "the source is taken for a word of the template"


def test_several_answers_are_candidates_and_the_best_is_the_answer(tiny_decoder: Path) -> None:
    task, model = make(tiny_decoder, num_beams=3, num_return_sequences=3)
    rows = task.encode(without_gold(DATA[0]))
    with torch.inference_mode():
        raw = task.infer(model, task.collate(rows, [0])).raw
        evaluated = task.infer(model, task.collate(task.encode(DATA[0]), [0])).raw
    prediction = task.decode(DATA[0], rows, raw)
    assert len(prediction["candidates"]) == 3
    assert prediction["response"] == prediction["candidates"][0]
    assert len(evaluated[0]) == 1, "evaluation needs no second answer"


def test_collate_of_decoders_is_the_general_one(tiny_decoder: Path) -> None:
    task, _ = make(tiny_decoder)
    rows = [task.encode(one)[0] for one in DATA]
    assert task.collate(rows, range(4)).inputs.keys() == collate(rows, task, range(4)).inputs.keys()
