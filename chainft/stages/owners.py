from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from chainft.stages.blocks import find_blocks


def owners(model: PreTrainedModel) -> Mapping[str, int]:
    blocks = find_blocks(model)
    found: dict[str, int] = {}
    units: dict[int, int] = {}
    seen: list[Any] = []
    flags = {p: p.requires_grad for p in model.parameters()}
    model.requires_grad_(True)
    hook = blocks.module(0).register_forward_pre_hook(
        lambda m, a, k: seen.append((a[0] if a else k["hidden_states"]).grad_fn), with_kwargs=True
    )
    was = model.training
    model.train(False)
    ids = torch.full((2, 8), 5)
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    model(input_ids=ids, attention_mask=torch.ones_like(ids), **more)
    hook.remove()
    model.train(was)
    stack, done = [seen[0]], set()
    while stack:
        node = stack.pop()
        if node is None or node in done:
            continue
        done.add(node)
        if hasattr(node, "variable"):
            units[id(node.variable)] = -1
        stack += [n for n, _ in node.next_functions]
    for p, f in flags.items():
        p.requires_grad_(f)
    for name, p, block in blocks.parameters():
        found[name] = block if block is not None else units.get(id(p), blocks.num_blocks)
    return found
