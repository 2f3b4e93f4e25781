"""Whether frozen weights are still those that something was trained on: adapters, or a run that resumes."""

import hashlib
import json
from collections.abc import Iterable

import torch
from torch import Tensor


def fingerprint(weights: Iterable[tuple[str, Tensor]]) -> str:
    """A digest of named fp32 tensors: of names, shapes and the sums of their bits.

    Sums of integers are exact in any order and on any device, and as fast as memory is read. They tell a model from
    another one by accident in its place, not from one that was made to look the same.
    """
    parts = sorted((name, list(x.shape), _bits(x)) for name, x in weights)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _bits(x: Tensor) -> int:
    return int(x.detach().contiguous().view(torch.int32).sum(dtype=torch.int64))
