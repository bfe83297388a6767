"""Tiny random models of many architectures, with dropout off, and a batch for each head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel

HEADS = {
    "classify": "AutoModelForSequenceClassification",
    "tokens": "AutoModelForTokenClassification",
    "causal": "AutoModelForCausalLM",
    "masked": "AutoModelForMaskedLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
}
VOCABULARY = 64
_PLAIN: Mapping[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED: Mapping[str, Any] = {"num_key_value_heads": 2, "head_dim": 8}
_BART: Mapping[str, Any] = {
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": 2,
}
_T5: Mapping[str, Any] = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 3,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 0,
}
_DEBERTA: Mapping[str, Any] = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "max_relative_positions": 16,
}
SPECIAL: Mapping[str, Mapping[str, Any]] = {
    "albert": {"embedding_size": 16, "num_hidden_groups": 2},
    "bart": _BART,
    "big_bird": {"attention_type": "original_full"},
    "bloom": {"n_layer": 4, "n_head": 4},
    "codegen": {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64, "n_ctx": 64, "rotary_dim": 4},
    "convbert": {"embedding_size": 32},
    "ctrl": {"n_embd": 32, "dff": 48, "n_layer": 4, "n_head": 4, "n_positions": 64},
    "deberta": _DEBERTA,
    "deberta-v2": {**_DEBERTA, "position_buckets": 8, "share_att_key": True, "norm_rel_ebd": "layer_norm",
                   "conv_kernel_size": 3, "conv_act": "gelu"},
    "distilbert": {"dim": 32, "n_layers": 4, "n_heads": 4, "hidden_dim": 48},
    "electra": {"embedding_size": 16},
    "falcon": {"multi_query": True},
    "gemma": _GROUPED,
    "gemma2": {**_GROUPED, "sliding_window": 4},
    "gemma3_text": {**_GROUPED, "sliding_window": 4},
    "gpt2": {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64},
    "gpt_bigcode": {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64},
    "gpt_neo": {"num_layers": 4, "attention_types": [[["global", "local"], 2]], "num_heads": 4, "window_size": 4},
    "gptj": {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64, "rotary_dim": 4},
    "granite": _GROUPED,
    "llama": {**_GROUPED, "tie_word_embeddings": True},
    "longformer": {"attention_window": [8] * 4},
    "m2m_100": _BART,
    "marian": _BART,
    "mbart": _BART,
    "mistral": {**_GROUPED, "sliding_window": 4},
    "mobilebert": {"embedding_size": 32, "intra_bottleneck_size": 32, "use_bottleneck": False,
                   "num_feedforward_networks": 1},
    "modernbert": {"global_attn_every_n_layers": 2, "local_attention": 8, "cls_token_id": 1, "sep_token_id": 2},
    "mt5": _T5,
    "olmo2": _GROUPED,
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 16, "layerdrop": 0.0},
    "pegasus": _BART,
    "phi3": {"num_key_value_heads": 2},
    "plbart": _BART,
    "qwen2": {"num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
    "qwen3": _GROUPED,
    "smollm3": {"num_key_value_heads": 2},
    "stablelm": {"num_key_value_heads": 2},
    "starcoder2": {"num_key_value_heads": 2},
    "t5": _T5,
    "umt5": _T5,
    "xmod": {"default_language": "en_XX"},
}  # fmt: skip
"""Settings beyond the plain ones; a model type without an entry takes the plain ones alone."""

CASES = (
    "albert:classify", "bert:tokens", "bert:classify", "bert:masked", "big_bird:tokens", "camembert:tokens",
    "convbert:tokens", "data2vec-text:classify", "deberta:classify", "deberta-v2:tokens", "distilbert:tokens",
    "distilbert:masked", "electra:tokens", "ernie:classify", "esm:tokens", "fnet:classify", "ibert:tokens",
    "layoutlm:tokens", "longformer:tokens", "mobilebert:tokens", "modernbert:tokens", "mpnet:tokens",
    "megatron-bert:tokens", "nystromformer:classify", "rembert:tokens", "roberta:tokens", "roberta:masked",
    "roberta-prelayernorm:tokens", "roformer:tokens", "xlm-roberta:tokens", "xmod:tokens",
    "bloom:causal", "codegen:causal", "cohere:causal", "falcon:causal", "gemma:causal", "gemma2:causal",
    "gemma3_text:causal", "glm:causal", "gpt2:causal", "gpt2:classify", "gpt_bigcode:causal", "gpt_neo:causal",
    "gpt_neox:causal", "gptj:causal", "granite:causal", "llama:causal", "llama:classify", "mistral:causal",
    "olmo2:causal", "opt:causal", "phi:causal", "phi3:causal", "qwen2:causal", "qwen3:causal", "smollm3:causal",
    "stablelm:causal", "starcoder2:causal",
    "bart:seq2seq", "m2m_100:seq2seq", "marian:seq2seq", "mbart:seq2seq", "mt5:seq2seq", "pegasus:seq2seq",
    "plbart:seq2seq", "t5:seq2seq", "umt5:seq2seq",
)  # fmt: skip
"""`model type:head`."""


def tiny_config(kind: str) -> PreTrainedConfig:
    """A config of a model type with four blocks (three and three for encoder-decoders)."""
    special = SPECIAL.get(kind, {})
    is_pair = special in (_BART, _T5)
    config = CONFIG_MAPPING[kind](vocab_size=VOCABULARY, **({} if is_pair else _PLAIN) | dict(special))
    for name, value in vars(config).items():
        if isinstance(value, float) and ("drop" in name or name.endswith("pdrop")):
            setattr(config, name, 0.0)
    config.pad_token_id = 0
    return config


def tiny_model(case: str, **options: Any) -> PreTrainedModel:
    """The random model of a case, in evaluation mode."""
    kind, head = case.split(":")
    torch.manual_seed(0)
    model: PreTrainedModel = getattr(transformers, HEADS[head]).from_config(tiny_config(kind), **options)
    return model.eval()


def batch(case: str) -> dict[str, Tensor]:
    """Four texts of different lengths, with labels."""
    head = case.split(":")[1]
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, VOCABULARY, (4, 12), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    mask[3, 5:] = 0
    ids = ids.masked_fill(mask == 0, 0)
    labels = {
        "classify": lambda: torch.tensor([0, 1, 1, 0]),
        "tokens": lambda: torch.randint(0, 2, ids.shape, generator=generator),
        "causal": lambda: ids.masked_fill(mask == 0, -100),
        "masked": lambda: ids.masked_fill(mask == 0, -100),
        "seq2seq": lambda: torch.randint(3, VOCABULARY, (4, 9), generator=generator),
    }[head]()
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
