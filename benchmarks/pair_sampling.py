"""How long choosing pairs takes over an index as large as CodeContests: 3.6 million solutions, 13 thousand problems.

    uv run python benchmarks/pair_sampling.py [--solutions 3600000] [--problems 13000]

The index is drawn: a heavy-tailed number of solutions a problem, lengths log-normal around each problem's own, and
incorrect programs a little longer.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
from length_balance import length_bias

from weighted_mtp.data.index import SolutionIndex
from weighted_mtp.data.sampling import PairConfig, SampleConfig, sample_pairs, sample_solutions

MIX = {"difficulty_bins": (7, 9, 12), "bin_weights": (0.0, 0.4, 0.3, 0.2, 0.1)}


def draw_index(n_solutions: int, n_problems: int, seed: int = 0) -> SolutionIndex:
    rng = np.random.default_rng(seed)
    popularity = rng.pareto(1.2, n_problems) + 0.05
    problem = np.repeat(np.arange(n_problems), rng.multinomial(n_solutions, popularity / popularity.sum()))
    is_correct = rng.random(n_solutions) < rng.beta(2, 2, n_problems)[problem]
    own = rng.normal(5.3, 0.6, n_problems)[problem]
    length = np.exp(rng.normal(own + np.where(is_correct, 0.0, 0.1), 0.4)).astype(np.int32)
    difficulty = rng.integers(6, 16, n_problems).astype(np.int32)
    difficulty[rng.random(n_problems) < 0.1] = -1
    return SolutionIndex(
        problem.astype(np.int32), is_correct, length, difficulty, np.full(n_problems, -1, np.int32), "tokens"
    )


def measure(title: str, run: Callable[[], int], repeats: int) -> None:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        chosen = run()
        seconds.append(time.perf_counter() - start)
    print(
        f"{title:64} {chosen:9,} chosen  best {min(seconds) * 1e3:4.0f} ms  median {np.median(seconds) * 1e3:4.0f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--solutions", type=int, default=3_600_000)
    parser.add_argument("--problems", type=int, default=13_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    index = draw_index(options.solutions, options.problems)
    each = np.bincount(index.problem)
    print(f"{len(index):,} solutions of {len(each):,} problems, {np.median(each):.0f} (median) to {each.max():,} each")
    configs = {
        "pairs, at most 8 a problem, 50,000 by difficulty": PairConfig(max_pairs_per_problem=8, n_pairs=50_000, **MIX),
        "pairs, at most 16 a problem": PairConfig(max_pairs_per_problem=16),
        "pairs, at most 16 a problem, lengths as they come": PairConfig(
            max_pairs_per_problem=16, length_balanced=False
        ),
        "pairs, all there are": PairConfig(max_pairs_per_problem=None),
    }
    for title, config in configs.items():
        measure(title, lambda config=config: len(sample_pairs(index, config, seed=0)), options.repeats)
        bias = length_bias(index, sample_pairs(index, config, seed=0))
        means = f"{bias.mean_correct:.1f} and {bias.mean_incorrect:.1f}"
        print(f"    mean length {means}, incorrect longer in {bias.longer_incorrect:.4f} of them")
    few = SampleConfig(max_per_problem=16, n_samples=100_000, **MIX)
    measure(
        "solutions, at most 16 a problem, 100,000 by difficulty",
        lambda: len(sample_solutions(index, few, seed=0)),
        options.repeats,
    )


if __name__ == "__main__":
    main()
