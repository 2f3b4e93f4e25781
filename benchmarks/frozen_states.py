"""What a frozen backbone knows of correctness: logistic regression on its states, nothing of it trained.

A program's vector is the states of its tokens, pooled and scaled. Examples are the pairs of a problem's correct and
incorrect programs, as differences of vectors, and every problem has the same weight: Bradley-Terry with a linear score.
Pooling and penalty are chosen by cross-validation over the training problems, never by those held out.
"""

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from real_programs import SEED, Fold, asked
from torch import Tensor
from torch.nn.functional import softplus
from transformers import PreTrainedTokenizerBase

from weighted_mtp.data.batches import Batch, TokenStore
from weighted_mtp.data.index import read_index
from weighted_mtp.data.tokens import split_tokens

States = Callable[[Tensor], Tensor]
"""Token ids, padded with `real_programs.PADDING`, (B, T) → (B, T, D)."""
Pooled = dict[str, Tensor]
"""Pooling → (N, D), a row a program."""
Pairs = list[Tensor]
"""Of each problem (M, 2) rows, correct and incorrect."""

PENALTIES = (1e-2, 1e-3, 1e-4)  # times the squared norm, beside a mean loss
PARTS = 4  # of the cross-validation


def frozen_scores(states: States, fold: Fold, tokenizer: PreTrainedTokenizerBase) -> tuple[dict[str, float], str]:
    """A score for every held-out program of a fold; and the pooling and penalty that were chosen."""
    learned = [_labelled(fold.root / fold.dataset / split, tokenizer) for split in ("train", "validation")]
    pairs, before = [], 0
    for store, of in learned:
        pairs += [rows + before for rows in of]
        before += len(store)
    vectors = [_pooled(states, store) for store in (*(store for store, _ in learned), fold.store)]
    scaled = {pooling: _scaled([of[pooling] for of in vectors], before) for pooling in vectors[0]}
    tried = {
        (pooling, penalty): _cross_validated(scaled[pooling], pairs, penalty)
        for pooling, penalty in itertools.product(scaled, PENALTIES)
    }
    pooling, penalty = max(tried, key=tried.__getitem__)
    scores = scaled[pooling][before:] @ _fitted(scaled[pooling], pairs, penalty)
    chosen = f"{pooling}, {penalty:g}: {tried[pooling, penalty]:.3f} of the training pairs in cross-validation"
    return dict(zip(fold.store.sample_ids, scores.tolist(), strict=True)), chosen


def _labelled(split: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[TokenStore, Pairs]:
    """A split's programs, and all pairs of each problem that has both kinds."""
    tokens, index = split_tokens(split, tokenizer, "plain"), read_index(split)
    pairs = []
    for problem in range(len(index.difficulty)):
        of = index.problem == problem
        right, wrong = (np.flatnonzero(of & (index.is_correct == label)) for label in (True, False))
        if len(right) and len(wrong):
            pairs.append(torch.cartesian_prod(torch.from_numpy(right), torch.from_numpy(wrong)))
    return tokens.store, pairs


def _pooled(states: States, store: TokenStore) -> Pooled:
    """The vectors of all programs of a store."""

    def ask(batch: Batch) -> Tensor:
        of, mask = states(batch.input_ids), batch.response_mask[..., None]
        return torch.stack([(of * mask).sum(1) / mask.sum(1), of.masked_fill(~mask, -torch.inf).amax(1)], dim=1)

    mean, most = asked(ask, store, "asking the frozen layers").unbind(1)
    return {"mean": mean, "maximum": most}


def _scaled(parts: Iterable[Tensor], known: int) -> Tensor:
    """All parts together, so that the vectors of the first `known` rows have mean 0 and a squared norm of about 1."""
    rows = torch.cat([*parts])
    return (rows - rows[:known].mean(0)) / (rows[:known].std(0) + 1e-6) / rows.shape[1] ** 0.5


def _cross_validated(vectors: Tensor, pairs: Pairs, penalty: float) -> float:
    """The share of pairs ranked right in problems that were left out, PARTS times, the mean over problems."""
    part = np.random.default_rng(SEED).permutation(len(pairs)) % PARTS
    right = []
    for left_out in range(PARTS):
        weights = _fitted(vectors, [of for of, p in zip(pairs, part, strict=True) if p != left_out], penalty)
        scores = vectors @ weights
        held_out = (of for of, p in zip(pairs, part, strict=True) if p == left_out)
        right += [float((scores[of[:, 0]] > scores[of[:, 1]]).float().mean()) for of in held_out]
    return float(np.mean(right))


def _fitted(vectors: Tensor, pairs: Pairs, penalty: float) -> Tensor:
    """(D,) weights of the score."""
    rows = torch.cat(pairs)
    differences = vectors[rows[:, 0]] - vectors[rows[:, 1]]
    share = torch.cat([torch.full((len(of),), 1 / len(of) / len(pairs)) for of in pairs])
    weights = torch.zeros(vectors.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = share @ softplus(-differences @ weights) + penalty * weights.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weights.detach()
