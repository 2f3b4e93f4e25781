"""Which way pass@1 goes when a policy moves, from programs that it wrote and had executed before it moved.

Shapes: N programs, P problems.

pass@1 of a problem is E[R], R ∈ {0, 1} whether a program drawn from π passes. As π moves, to first order it changes by
E[R Δ log π(x)], the score-function estimate (Williams 1992, Machine Learning 8); each program's R is compared with the
mean of the other programs of its problem, which changes no expectation and takes away most of the variance (RLOO:
Ahmadian et al. 2024, arXiv 2402.14740, section 2.3). A whole run's change is not the first order's: of a move that is
not small the value is no probability, and may exceed 1; its sign and its rank are what it tells.
"""

import numpy as np
from numpy.typing import NDArray


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
