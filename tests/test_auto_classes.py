"""`import chainft` is light, and all the same makes transformers load linked models, whichever is imported first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import BertConfig

from chainft.stages.links import LinkedForSequenceClassification
from chainft.stages.links_config import Link, LinkedConfig, plain_config

LOAD = "model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two linked models as save_pretrained writes them."""
    body = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    plain = plain_config(body)
    links = {"one": Link(plain, 8, 8), "two": Link(plain, 8, 8, sources=("one",), residual=True)}
    config = LinkedConfig.of(links, auto_class="AutoModelForSequenceClassification", exit_confidence=None)
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("linked")
    LinkedForSequenceClassification(config).save_pretrained(place)
    return place


@pytest.mark.parametrize(
    "order",
    [
        "import chainft, transformers",
        "import transformers, chainft",
        "import transformers; transformers.AutoConfig; import chainft",
        "import transformers; transformers.AutoModelForSequenceClassification; import chainft",
        "import chainft; from transformers import PreTrainedModel; import transformers",
        "import chainft.stages.links, transformers",
        "import chainft; from transformers.models.auto.modeling_auto import AutoModel; import transformers",
    ],
)
def test_auto_classes_load_linked_models_in_any_order_of_imports(folder: Path, order: str) -> None:
    code = f"{order}\nfolder = {str(folder)!r}\n{LOAD}\nprint(type(model).__name__, model.config.order)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[-2:] == ["LinkedForSequenceClassification ['one', 'two']", ""], done.stderr


def test_importing_chainft_imports_nothing_heavy_and_transformers_no_linked_models() -> None:
    code = "import sys, chainft; print('torch' in sys.modules, 'transformers' in sys.modules)\n"
    code += "from transformers import AutoModelForCausalLM; print('chainft.stages.links' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "False"]
