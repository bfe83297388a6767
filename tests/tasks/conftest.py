"""Tiny random models of several architectures that write text, as folders, all with the tokenizer of `tiny_decoder`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

_SMALL: dict[str, Any] = {"d_model": 32, "pad_token_id": 0, "eos_token_id": 3}
_BART: dict[str, Any] = {
    **_SMALL,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "bos_token_id": 2,
    "decoder_start_token_id": 3,
    "forced_eos_token_id": 3,
}
WRITERS: dict[str, dict[str, Any]] = {
    "llama": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
    },
    "gpt2": {
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 64,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
    },
    "t5": {
        **_SMALL,
        "d_kv": 16,
        "d_ff": 48,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 2,
        "decoder_start_token_id": 0,
    },
    "bart": _BART,
    "marian": _BART | {"decoder_start_token_id": 0},
    "mbart": _BART | {"decoder_start_token_id": None},
}
"""`model_type` -> settings of a model of two blocks (and two)."""


@pytest.fixture(scope="session")
def writer(tmp_path_factory: pytest.TempPathFactory, tiny_decoder: Path) -> Callable[[str], Path]:
    """The folder of a random model of that type."""
    made: dict[str, Path] = {}
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tiny_decoder)

    def make(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            save_writer(kind, tokenizer, made[kind])
        return made[kind]

    return make


def save_writer(kind: str, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a random model with this tokenizer."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    config = CONFIG_MAPPING[kind](vocab_size=len(tokenizer), **WRITERS[kind])
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
