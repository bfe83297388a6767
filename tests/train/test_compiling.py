"""Compiled blocks, and hidden states in bfloat16, on a CPU; on a GPU see `test_gpu.py`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn
from transformers import BertConfig, BertModel

from chainft.config.compose import compose
from chainft.config.rules import parse_run
from chainft.config.run import RunConfig
from chainft.errors import ConfigError
from chainft.stages.blocks import find_blocks
from chainft.stages.compiled import Compiled
from chainft.stages.precision import set_hidden_dtype
from chainft.train import compiling
from chainft.train.compiling import find_graphs
from chainft.train.plan import _has_graphs
from chainft.train.session import run_training
from tests.clean_process import clean_process

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has its own tests: test_gpu.py")
Train = Callable[..., dict[str, Any]]


@pytest.fixture
def train(still_encoder: Path, ner_files: list[str], tmp_path: Path) -> Iterator[Train]:
    """Trains six steps without dropout; returns losses, plan and scores."""

    def run(*words: str, name: str = "run") -> dict[str, Any]:
        settings = [f"model={still_encoder}", "train.batch_size=8", "train.max_steps=6", "optimizer.lr=0.005"]
        settings += ["report.enabled=false", f"run={tmp_path / name}", *ner_files, "task=ner"]
        AcceleratorState._reset_state(reset_partial_state=True)
        results = run_training(compose([*settings, *words]))
        lines = (tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        losses = [one["loss"] for one in map(json.loads, lines) if one["kind"] == "train"]
        plan = json.loads((tmp_path / name / "plan.json").read_text(encoding="utf-8"))
        return {**results, "losses": losses, "plan": plan}

    with clean_process():
        yield run


@pytest.fixture
def compiled_by_tracing(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Blocks are traced and differentiated as for the compiler, but no code is generated; notes runs of what was traced."""
    compile_it, runs = nn.Module.compile, []

    def traced(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            runs.append(len(args))
            return graph.forward(*args)

        return run

    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: compile_it(self, **options, backend=traced))
    yield runs
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore")  # Of the compiler itself.
def test_compiled_blocks_train_to_the_same_numbers(train: Train, compiled_by_tracing: list[int]) -> None:
    plain = train("train.padding_free=false", name="plain")
    assert not plain["plan"]["compiled"] and not compiled_by_tracing
    found = train("train.compile=true", name="compiled")
    assert found["plan"]["compiled"] and not found["plan"]["padding_free"]
    # Two rehearsals and six steps of one micro-batch or more through two blocks; evaluations run them as they are.
    assert len(compiled_by_tracing) >= 2 * 8 and len(compiled_by_tracing) % 2 == 0
    assert found["losses"] == pytest.approx(plain["losses"], rel=1e-5)
    assert found["test"]["after"]["values"] == pytest.approx(plain["test"]["after"]["values"], rel=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_blocks_run_compiled_within_the_context_alone(compiled_by_tracing: list[int]) -> None:
    model = BertModel(BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2)).eval()
    ids = torch.arange(6)[None]
    expected = model(input_ids=ids).last_hidden_state
    compiled = Compiled(model, longest=6)
    assert torch.equal(model(input_ids=ids).last_hidden_state, expected) and not compiled_by_tracing
    with compiled.active():
        assert compiled.is_running
        found = model(input_ids=ids).last_hidden_state
        assert len(compiled_by_tracing) == 2
        with compiled.left_out():
            model(input_ids=ids)
        assert len(compiled_by_tracing) == 2
        model(input_ids=ids)
    assert len(compiled_by_tracing) == 4 and not compiled.is_running
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train.padding_free=true"], "train.padding_free = true is not possible: train.compile"),
        (["missing"], "train.compile = true is not possible: there is no compiler"),
    ],
)
def test_what_cannot_be_compiled_is_refused(
    train: Train, monkeypatch: pytest.MonkeyPatch, words: list[str], told: str
) -> None:
    if words == ["missing"]:
        monkeypatch.setenv("CXX", "no-such-compiler")
        words = []
    with pytest.raises(ConfigError, match=told):
        train("train.compile=true", *words)


@pytest.mark.filterwarnings("ignore")  # Of the compiler itself.
def test_compiling_is_refused_where_every_block_is_kept(train: Train, tmp_path: Path) -> None:
    words = ["chain.stages.base.blocks='embeddings, :2'", "chain.stages.base.frozen=true", "cache.prefix=true"]
    words += [
        "chain.stages.base.eval_mode=true",
        "chain.stages.top.blocks=head",
        f"data.cache_dir={tmp_path / 'cache'}",
    ]
    words += ["chain.order=[base,top]"]
    with pytest.raises(ConfigError, match=r"train\.compile = true has no effect"):
        train("train.compile=true", *words)
    plain = train(*words, name="plain")
    assert plain["plan"]["prefix_cache"]["used"] and not plain["plan"]["cuda_graphs"]


def test_recording_is_refused_on_a_cpu(train: Train) -> None:
    assert not train("train.mixed_precision=bf16")["plan"]["cuda_graphs"]
    with pytest.raises(ConfigError, match=r"train\.cuda_graphs = true is not possible: it is for CUDA GPUs"):
        train("train.mixed_precision=bf16", "train.cuda_graphs=true", name="recorded")


def test_the_plan_tells_what_the_rehearsal_recorded() -> None:
    def told(graphs: Any, conduct: Any = None, **train: Any) -> bool:
        config = parse_run({"task": {"name": "ner"}, "data": {"name": "jsonl"}, "train": train})
        learner: Any = SimpleNamespace(forward=SimpleNamespace(graphs=graphs), conduct=conduct)
        return _has_graphs(config, learner)

    wanted = {"cuda_graphs": True, "mixed_precision": "bf16"}
    idle = SimpleNamespace(num_recorded=0, is_idle=True)
    assert not told(None) and not told(idle) and not told(SimpleNamespace(num_recorded=0, is_idle=False), **wanted)
    assert told(SimpleNamespace(num_recorded=2, is_idle=True), **wanted)
    assert not told(idle, SimpleNamespace(unfreezes=True), **wanted)
    for conduct in (None, SimpleNamespace(unfreezes=False)):
        with pytest.raises(ConfigError, match=r"cuda_graphs = true has no effect: no block is trained"):
            told(idle, conduct, **wanted)


def test_small_batches_are_recorded_and_where_it_is_wanted_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: a model there, and a recorder that records nothing yet."""
    monkeypatch.setattr(compiling, "CudaRecorder", SimpleNamespace)
    blocks = SimpleNamespace(
        num_blocks=2, parameters=lambda: [("a", torch.zeros(50_000), 0), ("b", torch.zeros(9), None)]
    )
    packing: Any = SimpleNamespace(has_kernel=True, graphs=None, gates=SimpleNamespace(blocks=blocks))
    store: Any = SimpleNamespace(lengths=np.array([3, 9]))

    class Model(nn.Linear):
        device = torch.device("cuda")

    def found(config: RunConfig, *, packing: Any = packing, is_alone: bool = True) -> Any:
        if packing is not None:
            packing.graphs = None
        model: Any = Model(2, 2)
        return find_graphs(model, config, store, packing, is_alone=is_alone)

    def made(**train: Any) -> RunConfig:
        return parse_run({"task": {"name": "ner"}, "data": {"name": "jsonl"}, "train": train})

    auto, wanted = made(mixed_precision="bf16"), made(mixed_precision="bf16", cuda_graphs=True)
    graphs = found(auto)
    assert packing.graphs is graphs and graphs.longest == 9 and graphs.most == 2e11 // 25_000
    assert found(wanted).most > 1e12
    assert found(made(mixed_precision="bf16", cuda_graphs=False)) is None
    for options, because in (({"packing": None}, "without padding"), ({"is_alone": False}, "one process")):
        assert found(auto, **options) is None
        with pytest.raises(ConfigError, match=because):
            found(wanted, **options)


def test_nothing_is_compiled_on_a_cpu_unless_asked(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "WORTH", 0.0)
    assert not train()["plan"]["compiled"]


def test_the_work_of_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """6 operations for each weight of a block and token, over all epochs."""
    model = BertModel(BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2))
    weights = sum(one.numel() for one in model.encoder.parameters())
    config = compose(["task=ner", "train.batch_size=2", "train.num_train_epochs=3"]).config

    class Store:
        first_of = np.array([0, 1, 2, 3, 4])
        lengths = np.array([5, 5, 7, 3])

    store: Any = Store()
    assert compiling._work(find_blocks(model), config, store) == 6 * weights * 20 * 3


def test_hidden_states_are_rounded_under_autocast_alone() -> None:
    model = BertModel(BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2))
    set_hidden_dtype(model, ["encoder.layer.0", "encoder.layer.1"], torch.bfloat16)
    seen: list[torch.dtype] = []
    for name, module in model.named_modules():
        if name.endswith("LayerNorm") or (name.startswith("encoder.layer.") and name.count(".") == 2):
            module.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    model(input_ids=torch.arange(6)[None])
    assert len(seen) == 7 and set(seen) == {torch.float32}
    seen.clear()
    with torch.autocast("cpu", torch.bfloat16):
        model(input_ids=torch.arange(6)[None]).last_hidden_state.sum().backward()
    assert len(seen) == 7 and set(seen) == {torch.bfloat16}
    assert all(one.grad.dtype == torch.float32 for one in model.encoder.parameters() if one.grad is not None)


def test_rounded_hidden_states_train_to_almost_the_same_losses(train: Train) -> None:
    plain = train("train.mixed_precision=bf16", name="plain")
    found = train("train.mixed_precision=bf16", "train.hidden_dtype=bfloat16", name="rounded")
    assert found["losses"] == pytest.approx(plain["losses"], rel=0.03) and found["losses"] != plain["losses"]
    assert found["plan"]["hidden_dtype"] == "bfloat16"
