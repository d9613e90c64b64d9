"""The demo model in a form that trains fast on a CPU.

The same mathematics as transformers' DeepseekV2ForCausalLM (a test holds the two together), but
experts are stacked, tokens are sorted by expert, and each expert's share is padded to one batched
product.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

VOCAB, HIDDEN, LAYERS, HEADS = 4096, 256, 6, 4
NOPE, ROPE, VALUE, LATENT = 48, 32, 64, 128
DENSE, EXPERTS, TOP_K, INNER, SHARED = 704, 16, 4, 192, 2
EPSILON = 1e-6
FACTOR, BETA_FAST, BETA_SLOW, MSCALE, ORIGINAL, THETA = 40.0, 32, 1, 0.707, 4096, 10000.0
SOFTMAX_SCALE = (NOPE + ROPE) ** -0.5 * (0.1 * MSCALE * math.log(FACTOR) + 1) ** 2


def inverse_frequencies() -> torch.Tensor:
    """Return YaRN's inverse frequencies, ``[ROPE / 2]`` (arXiv 2309.00071, section 3.2)."""

    def turns(count: int) -> float:
        return ROPE * math.log(ORIGINAL / (count * 2 * math.pi)) / (2 * math.log(THETA))

    low, high = max(math.floor(turns(BETA_FAST)), 0), min(math.ceil(turns(BETA_SLOW)), ROPE - 1)
    steps = torch.arange(ROPE // 2).float()
    ramp = ((steps - low) / max(high - low, 0.001)).clamp(0, 1)
    base = THETA ** (2 * steps / ROPE)
    return ramp / (FACTOR * base) + (1 - ramp) / base


class Norm(nn.Module):
    """RMS norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise the last axis."""
        return functional.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), EPSILON)


class Attention(nn.Module):
    """Multi-head latent attention, with keys and values formed per head."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(HIDDEN, HEADS * (NOPE + ROPE), bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(HIDDEN, LATENT + ROPE, bias=False)
        self.kv_a_layernorm = Norm(LATENT)
        self.kv_b_proj = nn.Linear(LATENT, HEADS * (NOPE + VALUE), bias=False)
        self.o_proj = nn.Linear(HEADS * VALUE, HIDDEN, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Attend causally; ``x`` is ``[batch, tokens, HIDDEN]``."""
        batch, tokens, _ = x.shape
        q = self.q_proj(x).view(batch, tokens, HEADS, NOPE + ROPE).transpose(1, 2)
        latent, k_pe = self.kv_a_proj_with_mqa(x).split([LATENT, ROPE], -1)
        kv = self.kv_b_proj(self.kv_a_layernorm(latent))
        kv = kv.view(batch, tokens, HEADS, NOPE + VALUE).transpose(1, 2)
        q_pe = rotate(q[..., NOPE:], cos, sin)
        k_pe = rotate(k_pe[:, None], cos, sin).expand(-1, HEADS, -1, -1)
        queries = torch.cat([q[..., :NOPE], q_pe], -1)
        keys = torch.cat([kv[..., :NOPE], k_pe], -1)
        # The fused kernel wants values as wide as keys.
        values = functional.pad(kv[..., NOPE:], (0, NOPE + ROPE - VALUE))
        out = functional.scaled_dot_product_attention(
            queries, keys, values, is_causal=True, scale=SOFTMAX_SCALE
        )[..., :VALUE]
        projected: torch.Tensor = self.o_proj(out.transpose(1, 2).reshape(batch, tokens, -1))
        return projected


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate interleaved pairs of the last axis."""
    real, imaginary = x.float().reshape(*x.shape[:-1], -1, 2).unbind(-1)
    turned = torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], -1)
    return turned.flatten(-2).to(x.dtype)


class Mlp(nn.Module):
    """SwiGLU; gate and up are one matrix."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Linear(HIDDEN, 2 * inner, bias=False)
        self.down_proj = nn.Linear(inner, HIDDEN, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the same shape as ``x``."""
        gate, up = self.gate_up_proj(x).chunk(2, -1)
        out: torch.Tensor = self.down_proj(functional.silu(gate) * up)
        return out


class MixtureOfExperts(nn.Module):
    """Softmax routing to ``TOP_K`` of ``EXPERTS`` experts, and shared experts."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(HIDDEN, EXPERTS, bias=False)
        self.gate_up = nn.Parameter(torch.randn(EXPERTS, HIDDEN, 2 * INNER) * HIDDEN**-0.5)
        self.down = nn.Parameter(torch.randn(EXPERTS, INNER, HIDDEN) * 0.3 * INNER**-0.5)
        self.shared_experts = Mlp(SHARED * INNER)
        self.balance = torch.zeros(())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the same shape as ``x``; `balance` is 1 when the experts share evenly."""
        flat = x.reshape(-1, HIDDEN)
        count = len(flat)
        with torch.autocast("cpu", enabled=False):
            probabilities = (flat.float() @ self.gate.weight.float().T).softmax(-1)
        weights, chosen = probabilities.topk(TOP_K, -1)
        experts = chosen.flatten()
        order = experts.argsort(stable=True)
        shares = torch.bincount(experts, minlength=EXPERTS)
        room = -(-int(shares.max()) // 64) * 64
        first = shares.cumsum(0) - shares
        owner = experts[order]
        place = owner * room + torch.arange(len(order)) - first[owner]
        token = order // TOP_K
        sorted_tokens = flat.new_zeros(EXPERTS * room, HIDDEN)
        sorted_tokens = sorted_tokens.index_copy(0, place, flat.index_select(0, token))
        inner = torch.bmm(sorted_tokens.view(EXPERTS, room, HIDDEN), self.gate_up.to(flat.dtype))
        gate, up = inner.chunk(2, -1)
        out = torch.bmm(functional.silu(gate) * up, self.down.to(flat.dtype)).view(-1, HIDDEN)
        out = out.index_select(0, place) * weights.flatten()[order].to(flat.dtype)[:, None]
        routed = torch.zeros_like(flat).index_add(0, token, out)
        self.balance = EXPERTS * (shares / (count * TOP_K) * probabilities.mean(0)).sum()
        mixed: torch.Tensor = routed.view_as(x) + self.shared_experts(x)
        return mixed


class Layer(nn.Module):
    """One decoder layer; the first is dense."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.input_layernorm = Norm(HIDDEN)
        self.self_attn = Attention()
        self.post_attention_layernorm = Norm(HIDDEN)
        self.mlp: Mlp | MixtureOfExperts = Mlp(DENSE) if index == 0 else MixtureOfExperts()

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Return the same shape as ``x``."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        out: torch.Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class DemoModel(nn.Module):
    """The whole model."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCAB, HIDDEN)
        self.layers = nn.ModuleList(Layer(index) for index in range(LAYERS))
        self.norm = Norm(HIDDEN)
        self.lm_head = nn.Linear(HIDDEN, VOCAB, bias=False)
        self.frequencies = inverse_frequencies()
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                spread = weight.shape[1] ** -0.5
                # Branches start small, so that the residual stream starts as the embedding.
                branch = 0.3 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
                nn.init.normal_(weight, std=spread * branch)
        nn.init.normal_(self.embed_tokens.weight, std=0.5)
        nn.init.normal_(self.lm_head.weight, std=0.01)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return logits ``[batch, tokens, VOCAB]``."""
        x = self.embed_tokens(ids)
        if torch.is_autocast_enabled("cpu"):
            x = x.bfloat16()
        angles = torch.arange(ids.shape[1]).float()[:, None] * self.frequencies
        cos, sin = angles.cos(), angles.sin()
        for layer in self.layers:
            x = layer(x, cos, sin)
        logits: torch.Tensor = self.lm_head(self.norm(x))
        return logits

    def balance(self) -> torch.Tensor:
        """Return the mean balance term of the mixture-of-experts layers."""
        terms = [
            layer.mlp.balance for layer in self.layers if isinstance(layer.mlp, MixtureOfExperts)
        ]
        return torch.stack(terms).mean()
