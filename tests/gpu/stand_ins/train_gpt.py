"""A stand-in for the file that parameter_golf fetches: the names that its adapters import, in few lines.

Written for the tests, so that the environment runs without a download. Limits: nothing of the public file is in it,
and its scores say nothing.
"""

import numpy as np
import torch
from torch import nn
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention

CONTROL_TENSOR_NAME_PATTERNS = ("scale", "skip_weights")
INT8_KEEP_FLOAT_FP32_NAME_PATTERNS = CONTROL_TENSOR_NAME_PATTERNS
INT8_KEEP_FLOAT_MAX_NUMEL = 4096
INT8_KEEP_FLOAT_STORE_DTYPE = torch.float16
INT8_PER_ROW_SCALE_DTYPE = torch.float16
INT8_CLIP_PERCENTILE = 99.9
INT8_CLIP_Q = INT8_CLIP_PERCENTILE / 100
HEADER_BYTES = 1024


class RMSNorm(nn.Module):
    def forward(self, x):
        return rms_norm(x, (x.shape[-1],))


class CastedLinear(nn.Linear):
    def forward(self, x):
        return linear(x, self.weight.to(x.dtype))


class Rotary(nn.Module):
    def __init__(self, width, base):
        super().__init__()
        self.register_buffer("rates", base ** (-torch.arange(0, width, 2) / width), persistent=False)

    def forward(self, length, device, dtype):
        angles = torch.outer(torch.arange(length, device=device).float(), self.rates.float().to(device))
        return angles.cos().to(dtype), angles.sin().to(dtype)


def apply_rotary_emb(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


class CausalSelfAttention(nn.Module):
    def __init__(self, width, heads, kv_heads, base, gain):
        super().__init__()
        self.heads, self.kv_heads, self.head = heads, kv_heads, width // heads
        self.q = CastedLinear(width, width, bias=False)
        self.kv = CastedLinear(width, 2 * kv_heads * self.head, bias=False)
        self.out = CastedLinear(width, width, bias=False)
        self.out._zero_init = True
        self.scale = nn.Parameter(torch.full((heads,), gain))
        self.rotary = Rotary(self.head, base)

    def forward(self, x):
        rows, length, _ = x.shape
        q = self.q(x).view(rows, length, self.heads, self.head).transpose(1, 2)
        k, v = self.kv(x).view(rows, length, 2, self.kv_heads, self.head).permute(2, 0, 3, 1, 4)
        cos, sin = self.rotary(length, x.device, x.dtype)
        q = apply_rotary_emb(rms_norm(q, (self.head,)), cos, sin) * self.scale.to(x.dtype)[:, None, None]
        k = apply_rotary_emb(rms_norm(k, (self.head,)), cos, sin)
        groups = self.heads // self.kv_heads
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        mixed = scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(rows, length, -1))


class MLP(nn.Module):
    def __init__(self, width, ratio):
        super().__init__()
        self.up = CastedLinear(width, ratio * width, bias=False)
        self.down = CastedLinear(ratio * width, width, bias=False)
        self.down._zero_init = True

    def forward(self, x):
        return self.down(self.up(x).relu().square())


class Block(nn.Module):
    def __init__(self, width, heads, kv_heads, ratio, base, gain):
        super().__init__()
        self.norm = RMSNorm()
        self.attention = CausalSelfAttention(width, heads, kv_heads, base, gain)
        self.mlp = MLP(width, ratio)
        self.scale = nn.Parameter(torch.tensor([1.0, 0.0]))

    def forward(self, x, start):
        scale = self.scale.to(x.dtype)
        x = scale[0] * x + scale[1] * start
        x = x + self.attention(self.norm(x))
        return x + self.mlp(self.norm(x))


def restore_low_dim_params_to_fp32(net):
    for parameter in net.parameters():
        if parameter.ndim < 2:
            parameter.data = parameter.data.float()


def zeropower_via_newtonschulz5(matrix, steps):
    x = matrix.bfloat16()
    x = x / (x.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(steps):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (x.T if tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    def __init__(self, parameters, rate, momentum, steps):
        super().__init__(parameters, {"lr": rate, "momentum": momentum, "steps": steps})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                moved = self.state[parameter].setdefault("moved", torch.zeros_like(parameter.grad))
                moved.mul_(group["momentum"]).add_(parameter.grad)
                turned = zeropower_via_newtonschulz5(
                    parameter.grad + group["momentum"] * moved, group["steps"]
                )
                parameter.add_(turned, alpha=-group["lr"])


class TokenStream:
    """Tokens of the shards that match, one after the other, over and over."""

    def __init__(self, pattern):
        from pathlib import Path

        place = Path(pattern)
        self.shards = sorted(place.parent.glob(place.name))
        self.tokens, self.number = torch.zeros(0, dtype=torch.int64), 0

    def take(self, count):
        while len(self.tokens) < count:
            path = self.shards[self.number % len(self.shards)]
            more = np.fromfile(path, dtype="<u2", offset=HEADER_BYTES).astype(np.int64)
            self.tokens, self.number = torch.cat((self.tokens, torch.from_numpy(more))), self.number + 1
        taken, self.tokens = self.tokens[:count], self.tokens[count:]
        return taken


def tensor_nbytes(tensor):
    return tensor.numel() * tensor.element_size()


def keep_float_tensor(name, tensor):
    return tensor.float() if any(p in name for p in INT8_KEEP_FLOAT_FP32_NAME_PATTERNS) else tensor.half()


def quantize_float_tensor(tensor):
    limit = tensor.float().abs().amax(dim=1).clamp_min(1e-8)
    levels = (tensor.float() / limit[:, None] * 127).round().to(torch.int8)
    return levels, (limit / 127).to(INT8_PER_ROW_SCALE_DTYPE)


def quantize_state_dict_int8(state):
    packed, total = {}, 0
    for name, tensor in state.items():
        tensor = tensor.detach().cpu()
        wide = tensor.ndim == 2 and tensor.numel() > INT8_KEEP_FLOAT_MAX_NUMEL
        packed[name] = quantize_float_tensor(tensor) if wide else keep_float_tensor(name, tensor)
        total += tensor_nbytes(tensor)
    return packed, {"bytes": total}


def dequantize_state_dict_int8(packed):
    return {
        name: value[0].float() * value[1].float()[:, None] if isinstance(value, tuple) else value.float()
        for name, value in packed.items()
    }
