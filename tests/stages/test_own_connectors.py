"""A connector that is a plug-in: between linked models, trained, saved, and read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForTokenClassification

from chainft.cli.config import lines
from chainft.config.chain import ConnectorConfig
from chainft.config.compose import compose
from chainft.connectors.base import Connector
from chainft.connectors.mlp import MlpConnector, MlpConnectorConfig
from chainft.errors import ChainftError, ConfigError
from chainft.infer.trained import load_run
from chainft.plan.probe import new_skeleton, new_task
from chainft.stages.own_connectors import make_connector
from chainft.train.session import run_training

LINKS = ["chain.order=[one,two]", "chain.stages.two.connector.name=mlp", "chain.stages.two.connector.hidden_size=7"]


@pytest.fixture
def words(tiny_encoder: Path, ner_files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    models = [f"chain.stages.{name}.model={tiny_encoder}" for name in ("one", "two")]
    return ["task=ner", *ner_files, *models, *LINKS, "train.max_steps=3", "run=run", "report.enabled=false"]


def test_it_is_two_layers_of_the_given_widths() -> None:
    first, _, last = MlpConnector(MlpConnectorConfig(hidden_size=7)).build(4, 3)  # type: ignore[misc]
    assert (first.in_features, first.out_features, last.in_features, last.out_features) == (4, 7, 7, 3)
    assert MlpConnector(MlpConnectorConfig()).build(4, 3)[0].out_features == 3  # type: ignore[index]


def test_a_run_trains_it_saves_it_and_reads_it_again(words: list[str]) -> None:
    run_training(compose(words))
    trained: Any = load_run(Path("run")).model
    connector = trained.connectors["two"]["one"]
    assert [type(layer) for layer in connector] == [nn.Linear, nn.GELU, nn.Linear]
    assert connector[0].out_features == 7
    state = json.loads(Path("run", "model", "config.json").read_text(encoding="utf-8"))
    assert state["stages"]["two"]["connector"] == {"name": "mlp", "hidden_size": 7}
    inputs = {"input_ids": torch.tensor([[2, 7, 8, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    again = AutoModelForTokenClassification.from_pretrained(Path("run", "model")).eval()
    assert torch.equal(again(**inputs).logits, trained(**inputs).logits)
    assert not torch.equal(connector[0].weight, make_connector({"name": "mlp", "hidden_size": 7}, 32, 32)[0].weight)  # type: ignore[index]


def test_a_plan_counts_its_parameters(words: list[str]) -> None:
    config = compose(words).config
    planned = new_skeleton(config, new_task(config, 3))
    shapes = {name: list(p.shape) for name, p in planned.named_parameters() if name.startswith("connectors.")}
    start = "connectors.two.one"
    assert shapes == {
        f"{start}.0.weight": [7, 32],
        f"{start}.0.bias": [7],
        f"{start}.2.weight": [32, 7],
        f"{start}.2.bias": [32],
    }


def test_what_a_saved_config_says_of_it_is_not_trusted(words: list[str]) -> None:
    run_training(compose([*words, "train.max_steps=1"]))
    file = Path("run", "model", "config.json")
    state = json.loads(file.read_text(encoding="utf-8"))
    state["stages"]["two"]["connector"] = {"name": "os.system"}
    file.write_text(json.dumps(state), encoding="utf-8")
    AutoConfig.from_pretrained(file.parent)
    with pytest.raises(ChainftError, match=r"connector 'os\.system' does not exist; there are: mlp"):
        load_run(Path("run"))


@pytest.mark.parametrize(
    ("word", "cause"),
    [
        ("chain.stages.two.connector.name=mpl", "connector 'mpl' does not exist; there are: mlp"),
        ("chain.stages.two.connector.hidden_size=0", "chain.stages.two.connector.hidden_size = 0 is outside"),
        ("chain.stages.two.connector.width=3", "chain.stages.two.connector.width is not a setting"),
        ("chain.stages.one.connector.name=mlp", "chain.stages.one.connector"),
    ],
)
def test_its_settings_are_checked_with_the_rest(words: list[str], word: str, cause: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose([*words, word])
    (problem,) = caught.value.problems
    assert cause in problem.message and (problem.key or "").startswith("chain.stages.")


@pytest.mark.parametrize("value", ["auto", "linear", "none"])
def test_the_names_of_ours_are_as_before(words: list[str], value: str) -> None:
    plain = [word for word in words if "connector" not in word]
    assert compose([*plain, f"chain.stages.two.connector={value}"]).config.chain.stages["two"].connector == value


def test_another_name_is_explained(words: list[str]) -> None:
    plain = [word for word in words if "connector" not in word]
    with pytest.raises(ConfigError, match="expected auto or linear or none or a mapping of settings"):
        compose([*plain, "chain.stages.two.connector=mlp"])


def test_a_module_that_is_no_connector_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(Connector):
        config_class = ConnectorConfig

        def build(self, width_in: int, width_out: int) -> nn.Module:
            return nn.Linear(width_in, width_out + 1)

    monkeypatch.setattr("chainft.stages.own_connectors.find", lambda *_, **__: Wrong)
    with pytest.raises(ConfigError, match=r"connector 'mlp' cannot be used: .* makes \[2, 3, 6\], not \[2, 3, 5\]"):
        make_connector({"name": "mlp"}, 4, 5)


def test_both_forms_are_explained() -> None:
    printed = "\n".join(lines("chain.stages.NAME.connector"))
    assert "auto or linear or none or a mapping of settings" in printed
    assert "two layers" in "\n".join(lines("chain.stages.NAME.connector.hidden_size"))
