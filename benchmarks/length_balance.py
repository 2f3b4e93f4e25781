"""What lengths give away about real pairs, before and after they are balanced.

    uv run python benchmarks/length_balance.py storage/datasets/condefects/train [more splits …] [--ratio 1.25]

Each split's problems are halved at random, again and again. Pairs are sampled from each half alone, as from a training
and a validation split, and two length-only rankers are fitted on the pairs of the one half and measured on the other's:
"the shorter (or the longer) is correct", and any function of length at all (how often programs of that length are
correct). 0.5 is chance. The splits need their index: `wmtp data … --steps metadata`, in tokens with `--tokenizer`.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from weighted_mtp.data.index import SolutionIndex, read_index
from weighted_mtp.data.sampling import PairConfig, Pairs, sample_pairs
from weighted_mtp.errors import UserError


@dataclass(frozen=True)
class LengthBias:
    """What only the lengths give away about pairs."""

    n_pairs: int
    mean_correct: float
    mean_incorrect: float
    longer_incorrect: float  # share of pairs whose incorrect program is the longer; equal lengths count 1/2

    @property
    def shorter_is_right(self) -> bool:
        """Whether to call the shorter program right is better, on these pairs, than to call the longer one right."""
        return self.longer_incorrect >= 0.5


def length_bias(index: SolutionIndex, pairs: Pairs) -> LengthBias:
    """How lengths are spread over pairs, and so what a length-only ranker gets right."""
    correct, incorrect = index.length[pairs.correct], index.length[pairs.incorrect]
    longer = (np.sign(incorrect - correct).mean() + 1) / 2
    return LengthBias(len(pairs), float(correct.mean()), float(incorrect.mean()), float(longer))


def some_problems(index: SolutionIndex, wanted: NDArray[np.bool_]) -> SolutionIndex:
    """The index without the solutions of other problems."""
    kept = wanted[index.problem]
    return replace(index, problem=index.problem[kept], is_correct=index.is_correct[kept], length=index.length[kept])


def by_any_function(train: tuple[SolutionIndex, Pairs], held_out: tuple[SolutionIndex, Pairs]) -> float:
    """Accuracy of ranking by the odds of being correct at a length, a tenth of it wide."""

    def bins(half: tuple[SolutionIndex, Pairs]) -> list[NDArray[np.int64]]:
        index, pairs = half
        lengths = (index.length[rows] for rows in (pairs.correct, pairs.incorrect))
        return [np.floor(np.log(np.maximum(length, 1)) / np.log(1.1)).astype(int) for length in lengths]

    correct, incorrect = (np.bincount(of, minlength=200) + 1 for of in bins(train))
    odds = correct / incorrect
    right, wrong = (odds[of] for of in bins(held_out))
    return float((np.sign(right - wrong).mean() + 1) / 2)


def measure(index: SolutionIndex, config: PairConfig, repeats: int) -> tuple[float, float]:
    """Mean held-out accuracies of the two rankers."""
    simple, free = [], []
    for seed in range(repeats):
        half = np.random.default_rng(seed).random(len(index.difficulty)) < 0.5
        try:
            train, held_out = (
                (part, sample_pairs(part, config, seed))
                for part in (some_problems(index, half), some_problems(index, ~half))
            )
        except UserError:  # so few problems that one half has no pair
            continue
        longer = length_bias(*held_out).longer_incorrect
        simple.append(longer if length_bias(*train).shorter_is_right else 1 - longer)
        free.append(by_any_function(train, held_out))
    return float(np.mean(simple)), float(np.mean(free))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("splits", type=Path, nargs="+")
    parser.add_argument("--ratio", type=float, default=PairConfig().length_ratio)
    parser.add_argument("--repeats", type=int, default=50)
    options = parser.parse_args()
    configs = {
        "as they come": PairConfig(length_balanced=False),
        "balanced": PairConfig(length_ratio=options.ratio),
    }
    for split in options.splits:
        index = read_index(split)
        print(f"{split}: {len(index):,} solutions of {len(index.difficulty):,} problems, {index.unit}")
        for title, config in configs.items():
            bias = length_bias(index, sample_pairs(index, config, seed=0))
            simple, free = measure(index, config, options.repeats)
            print(
                f"    {title:12} {bias.n_pairs:6,} pairs, mean length correct {bias.mean_correct:6.1f} "
                f"incorrect {bias.mean_incorrect:6.1f}, held-out accuracy of one direction {simple:.3f}, "
                f"of any function {free:.3f}"
            )


if __name__ == "__main__":
    main()
