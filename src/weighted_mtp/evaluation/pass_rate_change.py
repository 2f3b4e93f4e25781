"""Which way pass@1 goes when a policy moves, from programs that it wrote and had executed before it moved.

Shapes: N programs, P problems.

pass@1 of a problem is E[R], R ∈ {0, 1} whether a program drawn from π passes. Two estimates of what it becomes under
the moved policy π′ miss different things:

- To first order it changes by E[R Δ log π(x)], the score-function estimate (Williams 1992, Machine Learning 8); each
  program's R is compared with the mean of the other programs of its problem, which changes no expectation and removes
  most of the variance (RLOO: Ahmadian et al. 2024, arXiv 2402.14740, section 2.3). Programs that were not sampled count
  like the average of those that were. For a move that is not small the value is no probability, and may exceed 1.
- By importance sampling it becomes E[R min(π′(x) / π(x), c)], truncated so that no program decides alone (Ionides 2008,
  Journal of Computational and Graphical Statistics 17). Programs that were not sampled count as failures.

A policy whose passing programs become less likely because all of them do, as under weights that starve what holds a
program together, gains by the first and loses by the second.
"""

import numpy as np
from numpy.typing import NDArray

_LARGEST_RATIO = 10.0


def pass_rate_changes(
    log_ratios: NDArray[np.float64], passed: NDArray[np.bool_], problems: NDArray[np.int64]
) -> NDArray[np.float64]:
    """First-order change of each problem's pass@1, (P,) in the order of their numbers.

    log_ratios  (N,) by how much the move changes each program's log-probability, at the temperature it was sampled at
    passed      (N,)
    problems    (N,) number of each program's problem; one with a single program tells nothing and is left out
    """
    _, place, sizes = np.unique(problems, return_inverse=True, return_counts=True)
    several = sizes > 1
    others = (np.bincount(place, passed)[place] - passed) / np.maximum(sizes[place] - 1, 1)
    return (np.bincount(place, (passed - others) * log_ratios) / sizes)[several]


def reweighted_pass_rates(
    log_ratios: NDArray[np.float64], passed: NDArray[np.bool_], problems: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Each problem's pass@1 after the move by truncated importance sampling, (P,) in the order of their numbers.

    Arguments are those of `pass_rate_changes`.
    """
    _, place, sizes = np.unique(problems, return_inverse=True, return_counts=True)
    ratios = np.exp(np.minimum(log_ratios, np.log(_LARGEST_RATIO)))
    return np.bincount(place, passed * ratios) / sizes
