"""Widths of the network of fixed depth, around the fetched `nanochat/gpt.py`.

Use: `make_net(device)`. Limits: `fixed.DEPTH` blocks; position i may use positions up to i only.
"""

from __future__ import annotations

import torch
from nanochat.gpt import GPT, GPTConfig

import fixed

ASPECT = 64  # width over depth
HEAD_WIDTH = 128
WINDOWS = "SSSL"  # per block, repeated: quarter or full context; short ones need a kernel that knows them


def make_net(device: torch.device) -> GPT:
    heads = -(-fixed.DEPTH * ASPECT // HEAD_WIDTH)
    config = GPTConfig(
        sequence_len=fixed.CONTEXT,
        vocab_size=fixed.VOCAB,
        n_layer=fixed.DEPTH,
        n_head=heads,
        n_kv_head=heads,
        n_embd=heads * HEAD_WIDTH,
        window_pattern=WINDOWS,
    )
    with torch.device("meta"):
        net = GPT(config)
    net.to_empty(device=device)
    net.init_weights()
    return net
