"""pass@k and its interval over problems.

Legend: P problems, n samples of a problem, c of them correct.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from weighted_mtp.errors import UserError

SampleCounts = Mapping[str, tuple[int, int]]  # problem → (n samples, c correct)

_RESAMPLES_AT_ONCE = 1000


@dataclass(frozen=True)
class Estimate:
    """A mean over problems and its interval: a percentile bootstrap, or `without_spread`'s if all are alike."""

    value: float
    low: float
    high: float
    confidence: float = 0.95

    @property
    def sign(self) -> Literal[-1, 0, 1]:
        """1 if the whole interval is above zero, −1 if it is below, else 0."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that k of n samples, drawn without replacement, hold a correct one: `1 − C(n−c, k) / C(n, k)`.

    Unbiased (Chen et al. 2021, arXiv 2107.03374, section 2.1), in exact integers up to the one division.

    Raises UserError unless `1 <= k <= n` and `0 <= c <= n`.
    """
    if not 1 <= k <= n:
        raise UserError(
            f"pass@{k}: needs {max(k, 1)} samples of every problem and there are {n}; use a k from 1 to {n}"
        )
    if not 0 <= c <= n:
        raise UserError(f"pass@{k}: {c} correct of {n} samples; the count must lie between 0 and {n}")
    draws = math.comb(n, k)
    return (draws - math.comb(n - c, k)) / draws


def count(verdicts: Sequence[tuple[str, bool]]) -> dict[str, tuple[int, int]]:
    """(problem, passed) of every sample → counts, problems in order of first appearance."""
    counts: dict[str, tuple[int, int]] = {}
    for problem, passed in verdicts:
        n, c = counts.get(problem, (0, 0))
        counts[problem] = (n + 1, c + passed)
    return counts


def estimate(
    counts: SampleCounts, ks: Sequence[int], *, seed: int = 0, resamples: int = 10_000, confidence: float = 0.95
) -> dict[int, Estimate]:
    """pass@k for each k with an interval from resampling *problems*; the same seed gives the same interval.

    Samples of one problem are not independent evidence, so they are never resampled across problems.
    """
    return {k: _bootstrap(_values(counts, k), seed, resamples, confidence) for k in ks}


def without_spread(value: float, problems: int, least: float, confidence: float) -> Estimate:
    """The interval if all problems have the same value, which resampling would call certain.

    least  the lowest value that a problem can have; the highest is 1

    Of `problems` problems 0 had another value. Wilson's upper limit for the share that has one is u = z² / (n + z²)
    (Wilson 1927, J. Am. Stat. Assoc. 22), and their values may be anything: the mean is in
    [value − u (value − least), value + u (1 − value)], which for 0 of n and n of n is Wilson's own interval.
    """
    _, share = wilson(0.0, problems, confidence)
    return Estimate(value, value - share * (value - least), value + share * (1 - value), confidence)


def wilson(share: float, n: int, confidence: float) -> tuple[float, float]:
    """The score interval of a probability, of which `share` of n independent trials were successes (Wilson 1927)."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre, margin = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, (centre - margin) / (1 + z**2 / n)), min(1.0, (centre + margin) / (1 + z**2 / n))


def _values(counts: SampleCounts, k: int) -> np.ndarray:
    """pass@k of each problem, (P,)."""
    if not counts:
        raise UserError("pass@k of no problems is not defined; give at least one sample")
    return np.array([pass_at_k(n, c, k) for n, c in counts.values()])


def _bootstrap(values: np.ndarray, seed: int, resamples: int, confidence: float) -> Estimate:
    if np.ptp(values) == 0:
        return without_spread(float(values[0]), len(values), 0.0, confidence)
    generator, size = np.random.default_rng(seed), len(values)
    means = []
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        rows = min(_RESAMPLES_AT_ONCE, resamples - start)
        means.append(values[generator.integers(size, size=(rows, size))].mean(axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Estimate(float(values.mean()), float(low), float(high), confidence)
