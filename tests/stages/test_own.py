"""A whole model becomes the stages of one process: these compute, and what is another process's takes no memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from transformers import PreTrainedModel

from chainft.errors import ModelError
from chainft.stages.gates import Gates, without_cache
from chainft.stages.own import canonical_names, own_stages
from chainft.stages.partial import Stage
from chainft.stages.spans import Span, equal_spans
from tests.stages.architectures import batch, tiny_model


def cut(model: PreTrainedModel, mine: Sequence[int], count: int = 4) -> list[Stage]:
    return own_stages(model, equal_spans(Gates(model).blocks.map, count), mine)


@pytest.mark.parametrize(
    "case", ["bert:classify", "llama:causal", "albert:classify", "t5:seq2seq", "deberta-v2:tokens"]
)
def test_stages_of_two_processes_compute_what_the_whole_computes(case: str) -> None:
    whole, one, other = (tiny_model(case) for _ in range(3))
    first, third = cut(one, [0, 2])
    second, last = cut(other, [1, 3])
    payload = None
    for stage in (first, second, third):
        payload = stage(payload, batch(case))
    expected = whole(
        **batch(case), **without_cache(whole)
    )  # A cache is laid out in another way, and rounded in another.
    assert torch.equal(last(payload, batch(case)).logits, expected.logits)


@pytest.mark.parametrize("case", ["bert:masked", "llama:causal", "t5:seq2seq", "bart:classify", "gpt2:causal"])
def test_every_parameter_is_somewhere_and_only_shared_ones_twice(case: str) -> None:
    whole = tiny_model(case)
    names = canonical_names(whole)
    held = [stage.names or {} for number in range(4) for stage in cut(tiny_model(case), [number])]
    assert {first for one in held for first in one.values()} == set(names.values())
    for one, other in pairwise(held):
        common = set(one.values()) & set(other.values())
        assert not any(f".{block}." in name for name in common for block in range(1, 4)), common


def test_parameters_stay_the_same_objects_and_the_rest_goes() -> None:
    model = tiny_model("bert:classify")
    before = dict(model.named_parameters())
    before["bert.encoder.layer.1.output.dense.weight"].requires_grad_(False)
    (stage,) = cut(model, [1])
    after = dict(stage.named_parameters(prefix=""))
    assert all(parameter is before[name.removeprefix("model.")] for name, parameter in after.items())
    assert {name.split(".")[4] for name in after} == {"1"}
    assert not stage.model.get_parameter("bert.encoder.layer.1.output.dense.weight").requires_grad


def test_a_cut_that_the_family_cannot_have_is_refused() -> None:
    model = tiny_model("deberta-v2:classify")
    model.config.conv_kernel_size = 3
    spans = [Span(0, 0, embeddings=True, head=False), Span(0, 4, embeddings=False, head=True)]
    with pytest.raises(ModelError, match="between its embeddings and block 0"):
        own_stages(model, spans, [0])
