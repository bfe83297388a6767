"""Tiny random models of several architectures that write text, as folders, all with the tokenizer of `tiny_decoder`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

_SMALL: dict[str, Any] = {"d_model": 32, "pad_token_id": "pad", "eos_token_id": "eos"}
_BART: dict[str, Any] = {
    **_SMALL,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "bos_token_id": "bos",
    "decoder_start_token_id": "eos",
    "forced_eos_token_id": "eos",
}
WRITERS: dict[str, dict[str, Any]] = {
    "llama": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "pad_token_id": "pad",
        "bos_token_id": "bos",
        "eos_token_id": "eos",
    },
    "gpt2": {
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 64,
        "pad_token_id": "pad",
        "bos_token_id": "bos",
        "eos_token_id": "eos",
    },
    "t5": {
        **_SMALL,
        "d_kv": 16,
        "d_ff": 48,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 2,
        "decoder_start_token_id": "pad",
    },
    "bart": _BART,
    "marian": _BART | {"decoder_start_token_id": "pad"},
    "m2m_100": _BART | {"encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0},
    "mbart": _BART | {"decoder_start_token_id": None},
}
"""`model_type` -> settings of a model of two blocks (and two); numbers of tokens by their names in the tokenizer."""


@pytest.fixture(scope="session")
def writer(tmp_path_factory: pytest.TempPathFactory, tiny_decoder: Path) -> Callable[[str], Path]:
    """The folder of a random model of that type."""
    made: dict[str, Path] = {}
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tiny_decoder)

    def make(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            _save(kind, tokenizer, made[kind])
        return made[kind]

    return make


@pytest.fixture(scope="session")
def save_writer() -> Callable[[str, PreTrainedTokenizerBase, Path], None]:
    """Writes a random model of that type with a tokenizer into a folder."""
    return _save


def _save(kind: str, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a random model with this tokenizer."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    names = {name: getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    settings = {
        key: names[value] if key.endswith("token_id") and value else value for key, value in WRITERS[kind].items()
    }
    config = CONFIG_MAPPING[kind](vocab_size=len(tokenizer), **settings)
    torch.manual_seed(1)
    auto: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = auto.from_config(config)
    with torch.no_grad():  # Random weights of the usual size say nearly the same after every word.
        embeddings = model.get_input_embeddings().weight
        for parameter in model.parameters():
            if parameter.dim() > 1 and parameter is not embeddings:
                parameter.mul_(6)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
