"""What tells a good critic or weighting from a bad one, as sums that batches and ranks can add up.

Shapes: B batch, T time, M pairs.
"""

import torch
from torch import Tensor

from weighted_mtp.runtime.device import widened


def pair_accuracy(scores: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """How many pairs have the correct program's score above the incorrect one's, and how many pairs there are.

    scores  (B,) one per program, such as its mean value
    pairs   (M, 2) int64, rows of (correct, incorrect)

    Equal scores count one half, as a coin would.
    """
    difference = scores[pairs[:, 0]] - scores[pairs[:, 1]]
    return (widened(difference > 0) + 0.5 * widened(difference == 0)).sum(), difference.new_tensor(len(pairs))


def localisation_auc(delta: Tensor, response_mask: Tensor, wrong: Tensor) -> tuple[Tensor, Tensor]:
    """How well the most negative δ finds the first wrong token: Σ AUC over wrong programs, and their number.

    delta          (B, T) float, whatever a critic says of each token
    response_mask  (B, T) bool
    wrong          (B,) int64, position of the first wrong token in its row; −1 if there is none or it is unknown

    A program's AUC is the share of its *other* response tokens whose δ is above the wrong token's, equals counting
    one half: 1 if the first wrong token has the least δ, 0.5 by chance. Programs weigh the same whatever their length;
    those without a wrong token in the response, or without another token, are left out.
    """
    first = response_mask & (torch.arange(delta.shape[1], device=delta.device) == wrong[:, None])
    others = response_mask & ~first
    at_wrong = delta.masked_fill(~first, 0.0).sum(1, keepdim=True)
    above = widened(delta > at_wrong) + 0.5 * widened(delta == at_wrong)
    n_others = others.sum(1)
    counted = first.any(1) & (n_others > 0)
    auc = above.masked_fill(~others, 0.0).sum(1) / n_others.clamp(min=1)
    return auc[counted].sum(), counted.sum()


def calibration(probabilities: Tensor, outcomes: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Predicted probabilities against what happened, in ten bins of equal width: Σ p, Σ y and the number of p of each.

    probabilities  any shape, in [0, 1]
    outcomes       the same shape, 1 or 0
    mask           the same shape, bool: which of them count
    returns        (10,) as `widened`, three times

    All three add up over batches. Σ |Σ p − Σ y| over the bins, divided by all p, is the expected calibration error: the
    mean over predictions of |mean p − share of successes| of their bin (Guo et al. 2017, arXiv 1706.04599, eq. 3).
    """
    p, y = (widened(values).masked_fill(~mask, 0.0).flatten() for values in (probabilities, outcomes))
    at = (p * 10).long().clamp(max=9)
    empty = p.new_zeros(10)
    return empty.index_add(0, at, p), empty.index_add(0, at, y), empty.index_add(0, at, widened(mask).flatten())
