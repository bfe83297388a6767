"""Generation: prompts, losses on responses only, and responses that do not depend on the batch."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from chainft.config.parse import parse
from chainft.config.run import ModelConfig
from chainft.data.batching import collate
from chainft.data.example import Example, Origin
from chainft.errors import ConfigError, DataError, ModelError
from chainft.models.load import load_model
from chainft.registry import find
from chainft.tasks.generate import Generate, GenerateConfig

CHAT = "{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
DATA = [
    Example({"prompt": "anna visited", "response": "paris"}, Origin("data.jsonl", 1)),
    Example({"prompt": "the old city of david and emil", "response": "lima is near"}, Origin("data.jsonl", 2)),
    Example({"prompt": "oslo", "response": "a good city and house"}, Origin("data.jsonl", 3)),
]


def tokenizer_of(folder: Path) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return tokenizer


def make_task(folder: Path, *, max_length: int = 64, **settings: Any) -> Generate:
    task = Generate(parse(GenerateConfig, {"name": "generate", "max_new_tokens": 8, **settings}))
    task.prepare(tokenizer_of(folder), max_length=max_length)
    return task


def without_gold(example: Example) -> Example:
    return Example({"prompt": example.values["prompt"]}, example.origin)


@pytest.fixture
def task(tiny_decoder: Path) -> Generate:
    return make_task(tiny_decoder)


@pytest.fixture
def model(tiny_decoder: Path, task: Generate) -> PreTrainedModel:
    return load_model(ModelConfig(path=str(tiny_decoder)), task, seed=0).model.eval()


def responses(task: Generate, model: PreTrainedModel, examples: Sequence[Example]) -> list[list[int]]:
    rows = [task.encode(one)[0] for one in examples]
    with torch.inference_mode():
        result = task.infer(model, collate(rows, task, range(len(rows))))
    return [row[0].tolist() for row in result.raw]


# Features -------------------------------------------------------------------------------------------


def test_the_plugin_is_found() -> None:
    assert find("task", "generate", key="task.name") is Generate


def test_labels_are_the_next_tokens_of_the_response_and_its_end(task: Generate) -> None:
    (feature,) = task.encode(DATA[0])
    tokens = task.tokenizer.convert_ids_to_tokens(feature["input_ids"].tolist())
    assert tokens == ["[CLS]", "anna", "visited", "paris", "[SEP]"]
    paris, end = feature["input_ids"][3:].tolist()
    assert feature["labels"].tolist() == [-100, -100, paris, end, -100]
    assert feature["source_length"].tolist() == [3]


def test_without_a_response_there_is_the_prompt_alone(task: Generate) -> None:
    (feature,) = task.encode(without_gold(DATA[0]))
    assert "labels" not in feature
    assert feature["input_ids"].tolist() == task.encode(DATA[0])[0]["input_ids"][:3].tolist()


def test_an_empty_response_is_its_end_and_is_reported(task: Generate) -> None:
    """fault 13: no example is without any target."""
    empty = Example({"prompt": "anna", "response": ""}, Origin("data.jsonl", 9))
    (feature,) = task.encode(empty)
    assert (feature["labels"] != -100).sum() == 1
    (finding,) = task.contract({"train": [*DATA, empty]})
    assert (finding.slug, finding.count, finding.where) == ("empty-response", 1, "data.jsonl:9")


def test_a_template_is_laid_around_the_prompt(tiny_decoder: Path) -> None:
    task = make_task(tiny_decoder, template="the {prompt} , at")
    (feature,) = task.encode(without_gold(DATA[2]))
    assert task.tokenizer.convert_ids_to_tokens(feature["input_ids"].tolist()) == ["[CLS]", "the", "oslo", ",", "at"]


def test_auto_takes_the_chat_template_where_there_is_one(tiny_decoder: Path) -> None:
    task = Generate(GenerateConfig(max_new_tokens=8))
    tokenizer = tokenizer_of(tiny_decoder)
    tokenizer.chat_template = CHAT
    task.prepare(tokenizer, max_length=64)
    (feature,) = task.encode(without_gold(DATA[0]))
    wanted = tokenizer("<user> anna visited <a>", add_special_tokens=False)["input_ids"]
    assert feature["input_ids"].tolist() == wanted


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"template": "chat"}, "task.template"),
        ({"template": "Answer:"}, "task.template"),
        ({"max_new_tokens": 64}, "task.max_new_tokens"),
        ({"metrics": ["classification"]}, "task.metrics"),
    ],
)
def test_impossible_settings_are_refused(tiny_decoder: Path, settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_task(tiny_decoder, **settings)
    assert caught.value.problems[0].key == key


def test_a_prompt_without_room_is_refused_at_its_place(tiny_decoder: Path) -> None:
    """fault 13: over-long prompts stop the run by default."""
    task = make_task(tiny_decoder, max_length=12)
    with pytest.raises(DataError, match=r"8 tokens .* 8 .*more than 12") as caught:
        task.encode(DATA[1])
    (problem,) = caught.value.problems
    assert problem.where == "data.jsonl:2"
    assert "truncate_start" in (problem.help or "")


def test_a_cut_prompt_loses_its_beginning_not_its_template_and_says_so(tiny_decoder: Path) -> None:
    """fault 13: the cut is chosen, counted, and shown in the prediction."""
    task = make_task(tiny_decoder, max_length=14, overflow="truncate_start", template="the {prompt} , at")
    (feature,) = task.encode(DATA[1])
    tokens = task.tokenizer.convert_ids_to_tokens(feature["input_ids"].tolist())
    assert tokens == ["[CLS]", "the", "and", "emil", ",", "at", "lima", "i", "##s", "near", "[SEP]"]
    (finding,) = task.contract({"train": DATA})
    assert (finding.slug, finding.count, finding.where) == ("cut-source", 1, "data.jsonl:2")
    assert task.decode(DATA[1], [feature], [[np.array([5])]])["source_tokens_cut"] == 5


def test_a_response_that_fills_everything_is_refused_even_when_prompts_are_cut(tiny_decoder: Path) -> None:
    """fault 13: an example is never left without its prompt or a part of its response."""
    task = make_task(tiny_decoder, max_length=10, overflow="truncate_start")
    with pytest.raises(DataError, match="its response"):
        task.encode(Example({"prompt": "anna", "response": "paris " * 12}, Origin("data.jsonl", 1)))


def test_a_tokenizer_without_an_end_token_is_refused_with_the_numbers(tiny_decoder: Path) -> None:
    """fault 22: no response would ever end."""
    tokenizer = tokenizer_of(tiny_decoder)
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match=r"\d+ tokens.*no end-of-text token.*pad_token_id=0"):
        Generate(GenerateConfig()).prepare(tokenizer, max_length=128)


def test_a_missing_padding_token_is_replaced_by_the_end(tiny_decoder: Path, model: PreTrainedModel) -> None:
    """fault 22: GPT-2 and Llama have none; the mask, not the token, hides padding, and the end is still learned."""
    tokenizer = tokenizer_of(tiny_decoder)
    tokenizer.pad_token = None
    task = Generate(GenerateConfig(max_new_tokens=8))
    task.prepare(tokenizer, max_length=64)
    assert task.pad_token_id == tokenizer.eos_token_id
    batch = collate([task.encode(one)[0] for one in DATA], task, range(3))
    assert task.num_targets(batch) == 2 + 5 + 6
    assert responses(task, model, DATA) == responses(make_task(tiny_decoder), model, DATA)


# Loss -----------------------------------------------------------------------------------------------


def test_the_loss_is_on_the_response_only(task: Generate, model: PreTrainedModel) -> None:
    """By hand: minus the log-probability of each response token after all that comes before it."""
    (feature,) = task.encode(DATA[1])
    batch = collate([feature], task, [0])
    with torch.no_grad():
        output = model(**batch.inputs)
    ids, length = batch.inputs["input_ids"][0], int(feature["source_length"][0])
    logs = functional.log_softmax(output.logits[0], dim=-1)
    wanted = -sum(float(logs[place - 1, ids[place]]) for place in range(length, len(ids)))
    assert float(task.loss(output, batch)) == pytest.approx(wanted, rel=1e-5)
    assert task.num_targets(batch) == len(ids) - length


def test_logits_of_prompts_and_padding_have_no_effect_on_the_loss(task: Generate, model: PreTrainedModel) -> None:
    batch = collate([task.encode(one)[0] for one in DATA], task, range(3))
    with torch.no_grad():
        output = model(**batch.inputs)
    before = task.loss(output, batch)
    output.logits[batch.targets["labels"] == -100] = 1e4
    assert torch.equal(task.loss(output, batch), before)


def test_padding_does_not_change_the_loss(task: Generate, model: PreTrainedModel) -> None:
    rows = [task.encode(one)[0] for one in DATA]
    with torch.inference_mode():
        together = task.infer(model, collate(rows, task, range(3)))
        alone = [task.infer(model, collate([row], task, [0])) for row in rows]
    assert together.losses[""][0] == pytest.approx(sum(one.losses[""][0] for one in alone), rel=1e-5)
    assert together.losses[""][1] == sum(one.losses[""][1] for one in alone)


def test_perplexity_follows_from_the_loss_and_is_always_finite(task: Generate) -> None:
    assert task.loss_scores(2.0) == {"perplexity": pytest.approx(math.exp(2.0))}
    assert task.loss_scores(None) == {}
    assert math.isfinite(task.loss_scores(1e6)["perplexity"])


# Prediction -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_response_does_not_depend_on_the_batch(tiny_decoder: Path, model: PreTrainedModel, num_beams: int) -> None:
    task = make_task(tiny_decoder, num_beams=num_beams)
    together = responses(task, model, DATA)
    assert together == [responses(task, model, [one])[0] for one in DATA]
    assert together == responses(task, model, [without_gold(one) for one in DATA])
    assert all(len(row) <= 8 for row in together)
    assert any(together)


def test_greedy_responses_are_the_likeliest_next_tokens(task: Generate, model: PreTrainedModel) -> None:
    ids = task.encode(without_gold(DATA[1]))[0]["input_ids"].tolist()
    wanted: list[int] = []
    with torch.inference_mode():
        while len(wanted) < 8:
            token = int(model(input_ids=torch.tensor([ids + wanted])).logits[0, -1].argmax())
            if token == task.tokenizer.eos_token_id:
                break
            wanted.append(token)
    assert responses(task, model, DATA)[1] == wanted


def test_the_model_s_own_sampling_settings_neither_count_nor_get_lost(task: Generate, model: PreTrainedModel) -> None:
    wanted = responses(task, model, DATA)
    assert model.generation_config is not None
    model.generation_config.update(do_sample=True, temperature=5.0, repetition_penalty=3.0, max_length=2)
    before = model.generation_config
    assert responses(task, model, DATA) == wanted
    assert model.generation_config is before


def test_evaluation_by_loss_generates_only_for_prediction(tiny_decoder: Path, model: PreTrainedModel) -> None:
    task = make_task(tiny_decoder, generate_in_evaluation=False)
    assert (task.main_metric, task.metrics()) == ("loss", [])
    rows = [task.encode(one)[0] for one in DATA]
    with torch.inference_mode():
        result = task.infer(model, collate(rows, task, range(3)))
    assert list(result.raw) == [None] * 3
    prediction = task.decode(DATA[0], [rows[0]], [None])
    assert prediction["response"] is None
    assert task.predicted(prediction) == ""
    assert task.mistake(DATA[0], prediction) is None
    assert any(responses(task, model, [without_gold(one) for one in DATA]))


def test_a_model_learns_its_training_responses(task: Generate, model: PreTrainedModel) -> None:
    batch = collate([task.encode(one)[0] for one in DATA], task, range(3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = task.loss(model(**batch.inputs), batch) / task.num_targets(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    (metric,) = task.metrics()
    for one, raw in zip(DATA, responses(task, model, DATA), strict=True):
        prediction = task.decode(one, task.encode(one), [[np.array(raw)]])
        assert json.loads(json.dumps(prediction)) == prediction
        metric.update(task.gold(one), task.predicted(prediction))
        assert task.mistake(one, prediction) is None
    assert metric.compute().values == {"chrf": 1.0, "rouge_l": 1.0, "exact_match": 1.0}


def test_a_line_or_an_object_is_a_prompt(task: Generate) -> None:
    assert task.read_input("hello", where="<stdin>:2").values == {"prompt": "hello"}
    assert task.read_input({"prompt": "hello", "id": 3}, where="in.jsonl:1").values == {"prompt": "hello"}
    with pytest.raises(DataError):
        task.read_input({"text": 3}, where="in.jsonl:1")


def test_a_wrong_response_is_a_mistake_by_its_chrf(task: Generate) -> None:
    mistake = task.mistake(DATA[0], {"prompt": "anna visited", "response": "oslo"})
    assert mistake and mistake.text == "anna visited"
    assert mistake.badness > 0.9
