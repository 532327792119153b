"""A stand-in for the file that nanochat_d12 fetches: the names that its adapters import, in few lines.

Written for the tests, so that the environment runs without a download. Limits: nothing of the public file is in it,
and its scores say nothing.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy, rms_norm, scaled_dot_product_attention

from nanochat.optim import Mixed


@dataclass
class GPTConfig:
    sequence_len: int = 2048
    vocab_size: int = 32768
    n_layer: int = 12
    n_head: int = 6
    n_kv_head: int = 6
    n_embd: int = 768
    window_pattern: str = "L"


def norm(x):
    return rms_norm(x, (x.shape[-1],))


class Linear(nn.Linear):
    def forward(self, x):
        return nn.functional.linear(x, self.weight.to(x.dtype))


def has_ve(layer, layers):
    return layer % 2 == (layers - 1) % 2


def apply_rotary_emb(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


class CausalSelfAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads = config.n_head
        self.qkv = Linear(config.n_embd, 3 * config.n_embd, bias=False)
        self.out = Linear(config.n_embd, config.n_embd, bias=False)

    def forward(self, x, cos, sin):
        rows, length, width = x.shape
        q, k, v = self.qkv(x).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = norm(apply_rotary_emb(q, cos, sin)), norm(apply_rotary_emb(k, cos, sin))
        mixed = scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(rows, length, width))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.up = Linear(config.n_embd, 4 * config.n_embd, bias=False)
        self.down = Linear(4 * config.n_embd, config.n_embd, bias=False)

    def forward(self, x):
        return self.down(self.up(x).relu().square())


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.attention, self.mlp = CausalSelfAttention(config), MLP(config)

    def forward(self, x, cos, sin):
        x = x + self.attention(norm(x), cos, sin)
        return x + self.mlp(norm(x))


class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.table = nn.Embedding(config.vocab_size, config.n_embd)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.lm_head = Linear(config.n_embd, config.vocab_size, bias=False)
        cos, sin = self._precompute_rotary_embeddings(config.sequence_len, config.n_embd // config.n_head)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def _precompute_rotary_embeddings(self, length, width, device=None):
        rates = 10_000.0 ** (-torch.arange(0, width, 2, device=device) / width)
        angles = torch.outer(torch.arange(length, device=device).float(), rates)
        return angles.cos(), angles.sin()

    def _compute_window_sizes(self, config):
        return [config.sequence_len] * config.n_layer

    def init_weights(self):
        device = self.table.weight.device
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
        nn.init.normal_(self.table.weight, std=1.0)
        nn.init.zeros_(self.lm_head.weight)
        width = self.config.n_embd // self.config.n_head
        self.cos, self.sin = self._precompute_rotary_embeddings(self.config.sequence_len, width, device)

    def num_scaling_params(self):
        matrices = sum(p.numel() for p in self.blocks.parameters())
        return {"transformer_matrices": matrices, "lm_head": self.lm_head.weight.numel()}

    def setup_optimizer(self, unembedding_lr, embedding_lr, matrix_lr, weight_decay, scalar_lr):
        matrices = [p for p in self.blocks.parameters() if p.ndim == 2]
        groups = [
            {
                "params": matrices,
                "lr": matrix_lr,
                "kind": "muon",
                "momentum": 0.9,
                "weight_decay": weight_decay,
            },
            {"params": [self.table.weight], "lr": embedding_lr / 100, "kind": "adamw", "weight_decay": 0.0},
            {"params": [self.lm_head.weight], "lr": unembedding_lr, "kind": "adamw", "weight_decay": 0.0},
        ]
        for group in groups:
            group["initial_lr"] = group["lr"]
        return Mixed(groups)

    def forward(self, tokens, targets=None):
        length = tokens.shape[1]
        x = norm(self.table(tokens))
        cos, sin = self.cos[:length].to(x.dtype), self.sin[:length].to(x.dtype)
        for block in self.blocks:
            x = block(x, cos, sin)
        logits = self.lm_head(norm(x)).float()
        return logits if targets is None else cross_entropy(logits.flatten(0, 1), targets.flatten())
