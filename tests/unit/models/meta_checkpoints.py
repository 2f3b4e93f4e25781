"""Synthetic checkpoints in the format of Meta's release, and what tests of them share."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch

from weighted_mtp.errors import UserError

VOCABULARY = 420
PARAMS = {
    "dim": 32,
    "n_layers": 6,
    "n_heads": 4,
    "n_kv_heads": 2,
    "vocab_size": -1,
    "multiple_of": 16,
    "norm_eps": 1e-4,
    "rope_theta": 500.0,
    "n_future_tokens": 4,
}
CODE = [
    "def solve(xs):\n    total = 0\n    for x in xs:\n        if x > 0:\n            total += x * x\n    return total"
]
TEXTS = [*CODE, "a  b   c    d\n\tindented by a tab\n\t\ttwice", "Write a response that completes the request.</s>"] * 8


def train_sentencepiece(file: Path, vocabulary: int = VOCABULARY, **changes: object) -> Path:
    """A SentencePiece model with the settings of Llama 2's."""
    options = {
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "character_coverage": 1.0,
    }
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, vocab_size=vocabulary, minloglevel=2, **options | changes
    )
    file.write_bytes(model.getvalue())
    return file


def random_state(params: dict, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """A state dict as Meta names it."""
    generator = torch.Generator().manual_seed(0)
    dim, heads = params["dim"], params.get("n_future_tokens", 1)
    keys = dim // params["n_heads"] * (params.get("n_kv_heads") or params["n_heads"])
    width = -(-(8 * dim // 3) // params["multiple_of"]) * params["multiple_of"]
    blocks = [f"layers.{i}" for i in range(params["n_layers"] - heads + 1)]
    shapes = {"tok_embeddings": (VOCABULARY, dim), "norm": (dim,), "output": (VOCABULARY, dim)}
    for block in blocks + [f"extra_heads.{i}" for i in range(heads - 1)]:
        shapes |= {f"{block}.attention.{w}": (dim, dim) for w in ("wq", "wo")}
        shapes |= {f"{block}.attention.{w}": (keys, dim) for w in ("wk", "wv")}
        shapes |= {f"{block}.feed_forward.{w}": (width, dim) for w in ("w1", "w3")}
        shapes |= {f"{block}.feed_forward.w2": (dim, width)}
        shapes |= {f"{block}.{norm}": (dim,) for norm in ("attention_norm", "ffn_norm")}
    state = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        state[f"{name}.weight"] = (1 + 0.3 * noise if noise.ndim == 1 else noise / dim**0.5).to(dtype)
    return state


def rope_freqs(params: dict) -> torch.Tensor:
    channels = params["dim"] // params["n_heads"]
    return 1.0 / params["rope_theta"] ** (torch.arange(0, channels, 2).float() / channels)


def write(folder: Path, params: dict, state: dict, tokenizer_model: Path) -> Path:
    """As in Meta's repository: a folder of weights and params, the tokenizer above it."""
    folder.mkdir(parents=True)
    (folder / "params.json").write_text(json.dumps(params))
    torch.save(state, folder / "consolidated.pth")
    (folder.parent / "tokenizer.model").write_bytes(tokenizer_model.read_bytes())
    return folder


def one_line(pattern: str, function: Callable[..., Any], *arguments: object, **more: object) -> None:
    """Expect a UserError of one line that matches `pattern`."""
    with pytest.raises(UserError, match=pattern) as caught:
        function(*arguments, **more)
    assert "\n" not in str(caught.value)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])
