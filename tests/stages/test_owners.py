"""To which unit a parameter belongs, and what a stage needs of the shell."""

from __future__ import annotations

import pytest
import transformers

from chainft.stages.gates import Gates
from chainft.stages.owners import live, owners
from chainft.stages.skeleton import skeleton
from chainft.stages.spans import Span, spans_between
from tests.stages.architectures import HEADS, tiny_config, tiny_model


@pytest.mark.parametrize(
    ("case", "name", "unit"),
    [
        ("bert:tokens", "bert.embeddings.word_embeddings.weight", -1),
        ("bert:tokens", "bert.encoder.layer.2.output.dense.weight", 2),
        ("bert:tokens", "classifier.bias", 4),
        ("bert:classify", "bert.pooler.dense.weight", 4),
        ("llama:causal", "model.norm.weight", 4),
        ("llama:causal", "model.embed_tokens.weight", -1),
        ("deberta-v2:tokens", "deberta.encoder.rel_embeddings.weight", 0),
        ("deberta-v2:tokens", "deberta.encoder.conv.conv.weight", 0),
        ("marian:seq2seq", "model.encoder.embed_positions.weight", -1),
        ("t5:seq2seq", "encoder.final_layer_norm.weight", 2),
        ("t5:seq2seq", "decoder.final_layer_norm.weight", 6),
        ("bart:seq2seq", "model.decoder.layernorm_embedding.weight", 3),
        ("albert:classify", "albert.encoder.embedding_hidden_mapping_in.weight", -1),
        ("albert:classify", "albert.encoder.albert_layer_groups.1.albert_layers.0.ffn.weight", 2),
    ],
)
def test_a_parameter_belongs_to_the_first_unit_that_computes_with_it(case: str, name: str, unit: int) -> None:
    assert owners(tiny_model(case))[name] == unit


@pytest.mark.parametrize(
    "case", ["bert:tokens", "llama:causal", "bart:seq2seq", "deberta-v2:tokens", "albert:classify"]
)
def test_every_parameter_has_a_unit_and_keeps_its_flag(case: str) -> None:
    model = tiny_model(case)
    flags = {name: number % 2 == 0 for number, name in enumerate(dict(model.named_parameters()))}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(flags[name])
    assert owners(model).keys() == {name for name, _ in model.named_parameters(remove_duplicate=False)}
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags


@pytest.mark.parametrize("case", ["bert:tokens", "gpt2:causal", "t5:seq2seq", "marian:seq2seq", "mpnet:tokens"])
def test_stages_together_need_every_parameter_and_no_stage_needs_all(case: str) -> None:
    gates = Gates(tiny_model(case))
    needed = [live(gates, span) for span in spans_between([0, 2, gates.blocks.num_blocks])]
    everything = {name for name, _ in gates.model.named_parameters(remove_duplicate=False)}
    assert needed[0] | needed[1] == everything
    assert needed[0] != everything != needed[1]


def test_a_middle_stage_needs_its_blocks_alone() -> None:
    gates = Gates(tiny_model("bert:tokens"))
    needed = live(gates, Span(1, 3, embeddings=False, head=False))
    assert {name.split(".")[3] for name in needed} == {"1", "2"}


def test_a_model_without_weights_tells_the_same() -> None:
    import torch

    config = tiny_config("bert")
    bare = skeleton(getattr(transformers, HEADS["tokens"]), config)
    assert owners(bare) == owners(tiny_model("bert:tokens"))
    assert all(parameter.untyped_storage().nbytes() <= 8 for parameter in bare.parameters())
    assert bare(input_ids=torch.ones(1, 4, dtype=torch.long)).logits.shape == (1, 4, 2)
