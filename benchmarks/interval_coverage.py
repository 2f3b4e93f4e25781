"""How often the interval of a comparison over seeds and problems holds the true difference, by simulation.

    uv run python benchmarks/interval_coverage.py

Problems differ in how hard they are, seeds in how good their policies are, and the arm's gain differs from seed to
seed; every program passes or fails. Beside the product's interval stand a percentile bootstrap over seeds and problems
and Student's t with one quantile of Satterthwaite's degrees of freedom. Where 0.95 is said, 0.95 should be covered.
"""

import argparse
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import stats
from scipy.special import expit

from weighted_mtp.report.intervals import Values, over_seeds_and_problems

Interval = Callable[[Values, Values, np.random.Generator], tuple[float, float]]
PROBLEMS, GAIN, OF_PROBLEMS, OF_BOTH = 150, 0.5, 2.0, 0.3  # the last three in logits


def ours(arm: Values, baseline: Values, draw: np.random.Generator) -> tuple[float, float]:
    found = over_seeds_and_problems(arm, baseline)
    return found.low, found.high


def bootstrap(arm: Values, baseline: Values, draw: np.random.Generator, resamples: int = 500) -> tuple[float, float]:
    values = arm - baseline
    seeds = draw.multinomial(len(values), [1 / len(values)] * len(values), resamples) / len(values)
    problems = draw.multinomial(PROBLEMS, [1 / PROBLEMS] * PROBLEMS, resamples) / PROBLEMS
    low, high = np.quantile(((seeds @ values) * problems).sum(axis=1), [0.025, 0.975])
    return float(low), float(high)


def satterthwaite(arm: Values, baseline: Values, draw: np.random.Generator) -> tuple[float, float]:
    values = arm - baseline
    of_seeds, of_problems = values.mean(axis=1), values.mean(axis=0)
    residual = values - of_seeds[:, None] - of_problems + values.mean()
    freedoms = (len(of_seeds) - 1, len(of_problems) - 1, (len(of_seeds) - 1) * (len(of_problems) - 1))
    terms = (
        of_seeds.var(ddof=1) / len(of_seeds),
        of_problems.var(ddof=1) / len(of_problems),
        (residual**2).sum() / freedoms[2] / values.size,
    )
    variance = max(terms[0] + terms[1] - terms[2], *terms[:2])
    freedom = variance**2 / sum(term**2 / freedom for term, freedom in zip(terms, freedoms, strict=True))
    margin = stats.t.ppf(0.975, max(freedom, 1)) * variance**0.5
    return values.mean() - margin, values.mean() + margin


INTERVALS: dict[str, Interval] = {"product": ours, "percentile bootstrap": bootstrap, "Satterthwaite": satterthwaite}


def drawn(draw: np.random.Generator, seeds: int, of_seeds: float) -> tuple[Values, Values]:
    """An arm and its baseline, (S, P) of passed or not."""
    hardness, level = draw.normal(0, OF_PROBLEMS, PROBLEMS), draw.normal(0, of_seeds, (seeds, 1))
    gain = GAIN + draw.normal(0, of_seeds, (seeds, 1))
    logits = (hardness + level + draw.normal(0, OF_BOTH, (seeds, PROBLEMS)) + shift for shift in (gain, 0))
    arm, baseline = (draw.binomial(1, expit(own)).astype(float) for own in logits)
    return arm, baseline


def true_difference(draw: np.random.Generator, of_seeds: float, size: int = 4_000_000) -> float:
    logits = draw.normal(0, OF_PROBLEMS, size) + draw.normal(0, of_seeds, size) + draw.normal(0, OF_BOTH, size)
    return float((expit(logits + GAIN + draw.normal(0, of_seeds, size)) - expit(logits)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    trials = parser.parse_args().trials
    columns = ("seeds", "seeds' spread in logits", *(f"{name}: covered (width)" for name in INTERVALS))
    table = Table(*columns, title=f"{PROBLEMS} problems, one program each, {trials:,} trials; 0.95 is said")
    cases = [(spread, seeds) for spread in (0.2, 0.8) for seeds in (2, 3, 5, 8)]
    for spread, seeds in track(cases, "simulating", console=Console(stderr=True)):
        draw = np.random.default_rng(0)
        truth = true_difference(draw, spread)
        pairs = [drawn(draw, seeds, spread) for _ in range(trials)]
        cells = []
        for interval in INTERVALS.values():
            found = np.array([interval(*pair, draw) for pair in pairs])
            covered = (found[:, 0] <= truth) & (truth <= found[:, 1])
            cells.append(f"{covered.mean():.3f} ({(found[:, 1] - found[:, 0]).mean():.2f})")
        table.add_row(str(seeds), f"{spread:g}", *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
