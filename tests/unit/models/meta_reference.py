"""What Meta's multi-token-prediction model computes, slow and obvious, straight from its state dict.

Written from the papers, not from the package: RoPE turns each pair of neighbouring channels as one complex number (Su
et al. 2021, arXiv 2104.09864, §3.2), RMSNorm, grouped-query attention a query head at a time, SwiGLU, and every head
on the same trunk (Gloeckle et al. 2024, arXiv 2404.19737, §2).
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def reference_logits(
    state: Mapping[str, Tensor], params: Mapping[str, Any], ids: list[int], dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Logits (T, V) of head 1 … H for token ids of length T; weights are widened to `dtype` one at a time."""
    heads = params.get("n_future_tokens", 1)
    trunk = params["n_layers"] - heads
    hidden = state["tok_embeddings.weight"][torch.tensor(ids)].to(dtype)
    for layer in range(trunk):
        hidden = block(state, f"layers.{layer}", params, hidden)
    names = [f"layers.{trunk}"] + [f"extra_heads.{extra}" for extra in range(heads - 1)]
    outputs = [block(state, name, params, hidden) for name in names]
    eps = params.get("norm_eps", 1e-5)
    return [rms_norm(out, state["norm.weight"].to(dtype), eps) @ state["output.weight"].to(dtype).T for out in outputs]


def block(state: Mapping[str, Tensor], name: str, params: Mapping[str, Any], x: Tensor) -> Tensor:
    def weight(part: str) -> Tensor:
        return state[f"{name}.{part}.weight"].to(x.dtype)

    eps = params.get("norm_eps", 1e-5)
    h = rms_norm(x, weight("attention_norm"), eps)
    queries, keys, values = (h @ weight(f"attention.{w}").T for w in ("wq", "wk", "wv"))
    x = x + attention(queries, keys, values, params) @ weight("attention.wo").T
    h = rms_norm(x, weight("ffn_norm"), eps)
    gate = h @ weight("feed_forward.w1").T
    return x + (gate * torch.sigmoid(gate) * (h @ weight("feed_forward.w3").T)) @ weight("feed_forward.w2").T


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def attention(queries: Tensor, keys: Tensor, values: Tensor, params: Mapping[str, Any]) -> Tensor:
    """(T, D) and twice (T, n_kv_heads · d) → (T, D), one head and one position after the other."""
    n_heads = params["n_heads"]
    group = n_heads // (params.get("n_kv_heads") or n_heads)
    d = params["dim"] // n_heads
    out = torch.zeros_like(queries)
    for head in range(n_heads):
        own, shared = slice(head * d, (head + 1) * d), slice(head // group * d, (head // group + 1) * d)
        q, k = (rotate(x, params.get("rope_theta", 10_000.0)) for x in (queries[:, own], keys[:, shared]))
        for t in range(len(queries)):
            # The real part of a complex dot product is the dot product of the rotated pairs.
            scores = (k[: t + 1].conj() @ q[t]).real / math.sqrt(d)
            out[t, own] = torch.softmax(scores, 0) @ values[: t + 1, shared]
    return out


def rotate(x: Tensor, theta: float) -> Tensor:
    """(T, d) real → (T, d/2) complex: channels 2i and 2i + 1 as one number, turned by t · theta^(−2i/d)."""
    length, d = x.shape
    pairs = torch.view_as_complex(x.reshape(length, d // 2, 2).contiguous())
    turned = torch.empty_like(pairs)
    for t in range(length):
        for i in range(d // 2):
            turned[t, i] = pairs[t, i] * complex(math.cos(a := t * theta ** (-2 * i / d)), math.sin(a))
    return turned
