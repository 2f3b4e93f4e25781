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


def calibration_gaps(probabilities: Tensor, outcomes: Tensor, mask: Tensor, bins: int = 10) -> tuple[Tensor, Tensor]:
    """How far P(success | prefix) is from what happened: Σ (p − y) of each bin of equal width, and how many p.

    probabilities  (B, T) in [0, 1]
    outcomes       (B,) 1 or 0, of the whole program
    mask           (B, T) bool
    returns        (bins,) as `widened`, and a scalar

    Gaps and counts add up over batches. The sum of the gaps' absolute values over the count is the expected
    calibration error: the mean over predictions of |mean p − share of successes| of their bin (Guo et al. 2017, arXiv
    1706.04599, eq. 3).
    """
    p = widened(probabilities[mask])
    y = widened(outcomes[:, None].expand_as(mask)[mask])
    return p.new_zeros(bins).index_add(0, (p * bins).long().clamp(max=bins - 1), p - y), mask.sum()
