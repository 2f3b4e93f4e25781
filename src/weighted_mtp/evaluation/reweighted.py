"""What pass@1 would be under a policy that has moved, from programs that it wrote and had executed before it moved.

Shapes: N programs, P problems.

A policy π′ that is near π gives each of π's programs another probability, so π's programs stand for those of π′ when
each counts in proportion to π′(x) / π(x): importance sampling, self-normalised within a problem (Owen, Monte Carlo
theory, methods and examples, 2013, section 9.2). It is biased by 1/n in the n programs of a problem, and blind to
programs that π never wrote: a prediction of small moves.
"""

import numpy as np
from numpy.typing import NDArray


def reweighted_pass_rates(
    log_ratios: NDArray[np.float64], passed: NDArray[np.bool_], problems: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Each problem's expected pass@1 under π′, (P,) in the order of their numbers: Σ_i r_i 1[i passed] / Σ_i r_i.

    log_ratios  (N,) log r_i = log π′(x_i) − log π(x_i) at the temperature that the programs were sampled at
    passed      (N,)
    problems    (N,) number of each program's problem
    """
    _, place = np.unique(problems, return_inverse=True)
    n_problems = int(place.max()) + 1
    largest = np.full(n_problems, -np.inf)
    np.maximum.at(largest, place, log_ratios)
    ratios = np.exp(log_ratios - largest[place])  # the largest of a problem is 1: nothing overflows or vanishes
    return np.bincount(place, ratios * passed, n_problems) / np.bincount(place, ratios, n_problems)
