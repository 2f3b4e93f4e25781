"""The interval of a mean over seeds and problems.

Legend: S seeds, P problems; values are (S, P): pass@k of a problem in one seed's evaluation.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from weighted_mtp.evaluation.pass_at_k import Estimate, without_spread

Values = NDArray[np.float64]

CONFIDENCE = 0.95


def over_seeds_and_problems(values: Values, baseline: Values | None = None) -> Estimate:
    """Mean of `values`, or of `values − baseline`, with an interval that holds for other seeds and other problems.

    values    (S, P)
    baseline  (S', P), the same problems in the same order; if S = S', the i-th evaluations of both are of one seed

    Seeds and problems are crossed random factors, v_sp = m + a_s + b_p + e_sp. The variance of the mean is that over
    seeds' means, plus that over problems' means, less what both count, e's (two-way clustering: Cameron, Gelbach and
    Miller 2011, J. Business & Economic Statistics 29(2), section 2), each unbiased (divided by S − 1 or P − 1). The
    seeds' share has Student's t quantile of S − 1 degrees of freedom, the problems' that of P − 1, and the two are
    added as squares; the margin is never less than either of the two, since two seeds may agree by chance. Departure:
    there the quantile is the normal one, which covers too little where seeds are few.
    `benchmarks/interval_coverage.py` shows how often the interval covers.

    One seed says nothing of other seeds: its interval holds only for other problems. If all values are alike it is
    `without_spread`'s; of a single problem that seeds differ in, nothing is known.
    """
    parts = [values] if baseline is None else [values, -baseline]
    if baseline is not None and len(baseline) == len(values):
        parts = [values - baseline]
    lowest = 0.0 if baseline is None else -1.0
    mean = float(sum(part.mean() for part in parts))
    of_problems = np.sum([part.mean(axis=0) for part in parts], axis=0)
    if all(np.ptp(part) == 0 for part in parts):
        return without_spread(mean, len(of_problems), lowest, CONFIDENCE)
    if len(of_problems) == 1:
        return Estimate(mean, lowest, 1.0, CONFIDENCE)
    several = [part for part in parts if len(part) > 1]
    over_problems = _t(len(of_problems)) ** 2 * _of_mean(of_problems)
    twice = _t(len(of_problems)) ** 2 * sum(map(_interaction, several))
    over_seeds = sum(_t(len(part)) ** 2 * _of_mean(part.mean(axis=1)) for part in several)
    margin = math.sqrt(max(over_problems, over_seeds, over_problems + over_seeds - twice))
    return Estimate(mean, max(mean - margin, lowest), min(mean + margin, 1.0), CONFIDENCE)


def over_problems(values: NDArray[np.float64]) -> Estimate:
    """Mean of values (P,) that need be no probabilities, with Student's t interval."""
    mean = float(values.mean())
    margin = _t(len(values)) * math.sqrt(_of_mean(values))
    return Estimate(mean, mean - margin, mean + margin, CONFIDENCE)


def _t(size: int) -> float:
    """Student's t quantile of `size` values."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, size - 1))


def _of_mean(values: Values) -> float:
    """Variance of the mean of independent values."""
    return float(values.var(ddof=1)) / len(values)


def _interaction(part: Values) -> float:
    """Variance that e_sp gives the mean of (S, P)."""
    residual = part - part.mean(axis=1, keepdims=True) - part.mean(axis=0) + part.mean()
    return float((residual**2).sum()) / ((part.shape[0] - 1) * (part.shape[1] - 1)) / part.size
