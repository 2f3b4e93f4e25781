"""Which solutions to learn from: pairs for a critic, programs for a policy.

Everything here is a pure function of (index, configuration, seed) and reads only the index. Nothing is sorted or
shuffled but what is chosen: a draw of k out of n costs k, so that millions of solutions take some tens of milliseconds.

Shapes: N solutions, P problems, S difficulty bins, K length bins, M candidates or chosen items.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from weighted_mtp.data.index import UNKNOWN, SolutionIndex
from weighted_mtp.errors import UserError
from weighted_mtp.section import Section

Ints = NDArray[np.int64]

_ROUNDS = 4  # of `_stirred`: fewer leave some orders of a few items rarer than others
_NOTHING = -1  # fills the second place of a unit of one item


class ProblemMix(Section):
    """From which problems, and how much is how difficult; the common part of both configurations."""

    portion: tuple[float, float] = (0.0, 1.0)
    """From where to where in the split's problems, as shares of them: (0, 0.5) and (0.5, 1) have none in common."""
    difficulty_bins: tuple[int, ...] = ()
    """Rising edges of difficulty, on the source's own scale. Edges (7, 11) make four bins: unknown, below 7, 7 to
    10, 11 and above."""
    bin_weights: tuple[float, ...] = ()
    """Share of each bin, in that order, the unknown first; only their ratios count. A bin with share 0 is left out."""

    @model_validator(mode="after")
    def _portion_holds_something(self) -> "ProblemMix":
        if not 0 <= self.portion[0] < self.portion[1] <= 1:
            raise ValueError(f"portion {self.portion} must rise from 0 or more to 1 or less, for example (0, 0.5)")
        return self

    @model_validator(mode="after")
    def _weights_match_bins(self) -> "ProblemMix":
        edges, weights = self.difficulty_bins, self.bin_weights
        if list(edges) != sorted(set(edges)) or any(edge < 0 for edge in edges):
            raise ValueError(f"difficulty_bins {edges} must be rising edges from 0 on, for example (7, 11)")
        if edges and len(weights) != len(edges) + 2:
            raise ValueError(
                f"bin_weights {weights} must hold {len(edges) + 2} shares for difficulty_bins {edges}: unknown "
                f"difficulty, below {edges[0]}, and one from each edge on"
            )
        if weights and not edges:
            raise ValueError(f"bin_weights {weights} has no effect without difficulty_bins: give its edges")
        if weights and (min(weights) < 0 or not 0 < sum(weights) < np.inf):
            raise ValueError(f"bin_weights {weights} must be shares of 0 or more, not all 0")
        return self

    def bin_of(self, difficulty: NDArray[np.int32]) -> NDArray[np.uint16]:
        """(P,) difficulties → (P,) bins."""
        known = 1 + np.searchsorted(self.difficulty_bins, difficulty, side="right")
        return np.where(self.difficulty_bins == () or difficulty == UNKNOWN, 0, known).astype(np.uint16)

    def wants(self, difficulty: NDArray[np.int32]) -> NDArray[np.bool_]:
        """(P,) difficulties → (P,) whether a problem lies in the portion, and in a bin with a share."""
        first, end = (round(share * len(difficulty)) for share in self.portion)
        wanted = self.shares()[self.bin_of(difficulty)] > 0
        wanted[:first] = wanted[end:] = False
        return wanted

    def fixes(self) -> list[str]:
        """What to change where these options leave nothing."""
        fixes = ["give bin_weights of a difficulty that occurs"] if self.bin_weights else []
        return fixes + ([f"widen portion {self.portion}"] if self.portion != (0, 1) else [])

    def shares(self) -> NDArray[np.float64]:
        """(S,) shares that add up to 1."""
        weights = np.asarray(self.bin_weights or (1.0,))
        return weights / weights.sum()


class SampleConfig(ProblemMix):
    """Which solutions a policy learns from."""

    labels: Literal["correct", "all"] = "correct"
    """`all`: the incorrect ones too, as in data that nobody executed; token weights have to tell what to learn."""
    n_samples: int | None = Field(None, ge=1)
    """At most this many; null for all that there are (and that the shares of the difficulty bins allow)."""
    max_per_problem: int | None = Field(None, ge=1)
    """At most this many solutions of one problem; null for no limit."""


class PairConfig(ProblemMix):
    """Which (correct, incorrect) pairs a critic learns from."""

    n_pairs: int | None = Field(None, ge=1)
    """At most this many; null for all that there are (and that the shares of the difficulty bins allow)."""
    max_pairs_per_problem: int | None = Field(16, ge=1)
    """Pairs of one problem, at most; null for no limit. Without one, a few popular problems with thousands of solutions
    would be most of what a critic sees."""
    length_balanced: bool = True
    """Pair programs of about one length, the incorrect one as often the longer as the shorter. Lengths are the index's:
    of tokens, but of characters for micro and for datasets of a policy's own programs."""
    length_ratio: float = Field(1.25, ge=1.02)
    """Width of a length bin: its longest program is at most this many times as long as its shortest."""

    @model_validator(mode="after")
    def _ratio_has_an_effect(self) -> "PairConfig":
        if not self.length_balanced and self.length_ratio != type(self).model_fields["length_ratio"].default:
            raise ValueError(
                f"length_ratio {self.length_ratio} has no effect with length_balanced false: leave it out, "
                "or set length_balanced true"
            )
        return self


@dataclass(frozen=True)
class Pairs:
    """M pairs of one problem each, as rows of solutions.parquet; no row occurs twice."""

    correct: Ints  # (M,)
    incorrect: Ints  # (M,)

    def __len__(self) -> int:
        return len(self.correct)


def sample_solutions(index: SolutionIndex, config: SampleConfig, seed: int) -> Ints:
    """(M,) rows of correct solutions (or of all), each once, in random order.

    At most `max_per_problem` of a problem, drawn evenly. Then the difficulty bins get their shares of `n_samples` by
    largest remainder; what a bin lacks goes to the others by their shares.

    Raises UserError if there is nothing to choose from.
    """
    rng = np.random.default_rng(seed)
    rows = np.arange(len(index)) if config.labels == "all" else np.flatnonzero(index.is_correct)
    there = np.bincount(index.problem[rows], minlength=len(index.difficulty))
    stratum = config.bin_of(index.difficulty)
    problem, item = _draw(np.where(config.wants(index.difficulty), there, 0), config.max_per_problem, rng)
    if not len(problem):
        fixes = [*config.fixes()] if len(rows) else ["choose another dataset or split"]
        kind = "correct solution" if config.labels == "correct" else "solution"
        raise UserError(f"no {kind} to sample: {len(rows)} of {len(index)} solutions fit; {', or '.join(fixes)}")
    chosen = rows[_starts(there)[problem] + item]
    return _mix(chosen[:, None], stratum[problem], config.shares(), config.n_samples, rng)


def sample_pairs(index: SolutionIndex, config: PairConfig, seed: int) -> Pairs:
    """Unique pairs (correct, incorrect) of one problem each, in random order.

    1. Candidates: in each cell (problem, length bin) as many 1:1 pairs as the rarer label allows, drawn evenly; of
       these at most `max_pairs_per_problem` of each problem. Without `length_balanced` a problem is one cell.
    2. `length_balanced`: in each (difficulty bin, length bin) pairs whose incorrect program is the longer are coupled
       at random with as many whose incorrect one is the shorter; the surplus of either kind is dropped. So "the
       shorter is right" holds for half the pairs at every length, and a ranker that knows only lengths has nothing
       to learn. Pairs of equal length stay.
    3. The difficulty bins get their shares of `n_pairs` by largest remainder; what a bin lacks goes to the others by
       their shares. Couples are taken whole, but for one at most in each difficulty bin.

    Raises UserError if there is no pair.
    """
    rng = np.random.default_rng(seed)
    stratum = config.bin_of(index.difficulty)
    band, n_bands = _length_bands(index.length, config)
    wanted = config.wants(index.difficulty)
    pairs, cell = _candidates(index, band, n_bands, wanted, config.max_pairs_per_problem, rng)
    stratum = stratum[cell // n_bands]
    units = np.arange(len(cell))[:, None]
    if config.length_balanced:
        longer = np.sign(index.length[pairs[:, 1]] - index.length[pairs[:, 0]])
        units = _balanced(stratum.astype(np.int64) * n_bands + cell % n_bands, longer, rng)
    if not len(units):
        raise UserError(_no_pairs(index, config))
    chosen = _mix(units, stratum[units[:, 0]], config.shares(), config.n_pairs, rng)
    return Pairs(pairs[chosen, 0], pairs[chosen, 1])


def _length_bands(length: NDArray[np.int32], config: PairConfig) -> tuple[NDArray[np.uint16], int]:
    """(N,) length bins, numbered without gaps from 0 on, and their number; all 0 if lengths are not balanced."""
    longest = int(length.max(initial=1))
    edges = [1]
    while config.length_balanced and edges[-1] <= longest:
        edges.append(max(edges[-1] + 1, int(np.floor(edges[-1] * config.length_ratio)) + 1))
    band_of = np.maximum(np.searchsorted(edges, np.arange(longest + 1), side="right") - 1, 0).astype(np.uint16)
    return band_of[length], len(edges)


def _candidates(
    index: SolutionIndex,
    band: NDArray[np.uint16],
    n_bands: int,
    wanted: NDArray[np.bool_],
    limit: int | None,
    rng: np.random.Generator,
) -> tuple[Ints, Ints]:
    """(M, 2) rows of correct and incorrect, and the (M,) cell `problem * n_bands + band` of each pair.

    wanted  (P,) whether a problem may give pairs
    limit   pairs per problem
    """
    n_problems = len(index.difficulty)
    kind = band * np.uint16(2) + index.is_correct
    # numpy's stable sort of such integers is a radix sort, one pass per byte: 8 bits save a pass over all solutions.
    order = np.argsort(kind.astype(np.uint8) if n_bands <= 128 else kind, kind="stable")
    # Problems rise with the row, so `order` goes by band, label, problem, row: the counts say where each cell begins.
    key = kind.astype(np.int64)
    key *= n_problems
    key += index.problem
    count = np.bincount(key, minlength=2 * n_bands * n_problems)
    start = _starts(count).reshape(n_bands, 2, n_problems)
    count = count.reshape(n_bands, 2, n_problems)
    slots = (np.minimum(count[:, 0], count[:, 1]) * wanted).T.ravel()  # pairs that each cell has to give
    # All cells of a problem lie side by side in `slots`, so a draw among a problem's slots is a draw among its pairs,
    # each cell with the weight of the pairs it can give; searchsorted then says which cell a slot belongs to.
    problem, slot = _draw(slots.reshape(n_problems, n_bands).sum(axis=1), limit, rng)
    first = np.append(_starts(slots), slots.sum())
    slot += first[problem * n_bands]
    cell = np.searchsorted(first, slot, side="right") - 1
    position = slot - first[cell]
    # The rarer label gives its items in order, the commoner one the same positions of a random permutation: no program
    # occurs twice, and which two meet is random, without listing all pairs.
    of = cell % n_bands
    common = (count[of, 1, problem] > count[of, 0, problem]).astype(np.int64)
    other = _permuted(position, count[of, common, problem], cell, rng)
    rows = [order[start[of, label, problem] + np.where(common == label, other, position)] for label in (1, 0)]
    return np.stack(rows, axis=1), cell


def _balanced(group: Ints, longer: NDArray[np.int32], rng: np.random.Generator) -> Ints:
    """(U, 2) units: couples of a pair with `longer` 1 and one with -1 of the same group; and single pairs with 0.

    group, longer  (M,) of each pair
    """
    shuffled = rng.permutation(len(group))
    sides = []
    counts = [np.bincount(group[longer == sign], minlength=group.max(initial=0) + 1) for sign in (1, -1)]
    # Both signs are ranked within their group in random order; cutting both at the smaller count leaves rows of the two
    # sides that correspond, so stacking them makes couples.
    for sign, count in zip((1, -1), counts, strict=True):
        side = shuffled[longer[shuffled] == sign]
        side = side[np.argsort(group[side], kind="stable")]
        rank = np.arange(len(side)) - _starts(count)[group[side]]
        sides.append(side[rank < np.minimum(*counts)[group[side]]])
    couples = np.stack(sides, axis=1)
    ties = np.flatnonzero(longer == 0)
    return np.concatenate([couples, np.stack([ties, np.full_like(ties, _NOTHING)], axis=1)])


def _mix(
    units: Ints, stratum: NDArray[np.uint16], shares: NDArray[np.float64], n: int | None, rng: np.random.Generator
) -> Ints:
    """Items of randomly chosen units, from each stratum its share of `n`, in random order.

    units  (U, W) items that are taken together as far as the number allows, with _NOTHING in places that are empty
    """
    order = rng.permutation(len(units))
    order = order[np.argsort(stratum[order], kind="stable")]
    items, of = units[order].ravel(), np.repeat(stratum[order], units.shape[1])
    items, of = items[items != _NOTHING], of[items != _NOTHING]
    there = np.bincount(of, minlength=len(shares))
    rank = np.arange(len(items)) - _starts(there)[of]
    return rng.permutation(items[rank < _quota(there, shares, n)[of]])


def _quota(there: Ints, shares: NDArray[np.float64], n: int | None) -> Ints:
    """(S,) how many of each stratum: `n` by largest remainder, none more than `there`; what one lacks goes to the rest.

    `n` None is the largest number for which no stratum lacks any; empty ones have no share.
    """
    asking = (shares > 0) & (there > 0)
    if n is None:
        n = int((there[asking] / shares[asking]).min() * shares[asking].sum() + 1e-9)
    quota, left = np.zeros_like(there), min(n, int(there[asking].sum()))
    while asking.any():
        exact = np.where(asking, left * shares / shares[asking].sum(), 0)
        short = asking & (there <= exact)  # they give all they have; the others share what is left in another round
        if not short.any():
            quota[asking] = np.floor(exact[asking])
            remainder = np.where(asking, exact - np.floor(exact), -1)
            quota[np.argsort(-remainder, kind="stable")[: left - int(quota[asking].sum())]] += 1
            break
        quota[short] = there[short]
        left -= int(there[short].sum())
        asking &= ~short
    return quota


def _draw(size: Ints, limit: int | None, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """(M,) group and item of up to `limit` different items out of range(size[g]), for every group g."""
    wanted = size if limit is None else np.minimum(size, limit)
    group = np.repeat(np.arange(len(size)), wanted)
    item = np.arange(len(group)) - _starts(wanted)[group]
    part = np.flatnonzero((wanted < size)[group])
    item[part] = _permuted(item[part], size[group[part]], group[part], rng)
    return group, item


def _permuted(position: Ints, size: Ints, group: Ints, rng: np.random.Generator) -> Ints:
    """(M,) the item at `position` of a random permutation of range(size), another one for each group.

    A keyed bijection of the next power of two, repeated until it lands inside (cycle walking; Black & Rogaway 2002,
    "Ciphers with arbitrary finite domains", section 4), then a random rotation, which makes every item exactly as
    likely as any other. It costs nothing for what is not drawn: numpy has no permutation of many groups at once, and
    to shuffle all of 3.6 million solutions by problem took ten times as long.
    """
    turn, key = (scrambled(group.astype(np.uint64) + rng.integers(2**63, dtype=np.uint64)) for _ in range(2))
    # Less than half of 0 … mask lies outside range(size), so the loop about halves what is left in each round.
    mask, n = _ones(size), size.astype(np.uint64)
    item, outside = position.astype(np.uint64), np.arange(len(position))
    while len(outside):
        item[outside] = landed = _stirred(item[outside], mask[outside], key[outside])
        outside = outside[landed >= n[outside]]
    return ((item + turn % n) % n).astype(np.int64)


def _stirred(x: NDArray[np.uint64], mask: NDArray[np.uint64], key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """(M,) a bijection of 0 … mask, another one for each key: multiply by an odd number, add, fold the upper half."""
    fold = (np.bitwise_count(mask) + np.uint8(1)) // np.uint8(2)
    for _ in range(_ROUNDS):
        x = (x * (key | np.uint64(1)) + (key >> np.uint64(32))) & mask
        x ^= x >> fold
        key = scrambled(key)
    return x


def _ones(size: Ints) -> NDArray[np.uint64]:
    """(M,) the least 2**b - 1 that is at least size - 1 and at least 1."""
    bits = np.frexp(np.maximum(size - 1, 1))[1].astype(np.uint64)
    return (np.uint64(1) << bits) - np.uint64(1)


def scrambled(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """(M,) 64-bit mixing of Steele et al. 2014 (SplitMix): neighbouring numbers become unrelated ones."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _starts(count: NDArray[np.integer]) -> Ints:
    """Where each group begins in an array in which groups follow each other."""
    return np.cumsum(count) - count


def _no_pairs(index: SolutionIndex, config: PairConfig) -> str:
    """Why there is no pair, and what to do."""
    labels = [np.bincount(index.problem[index.is_correct == label], minlength=1) for label in (True, False)]
    size = min(map(len, labels))
    both = int(np.count_nonzero((labels[0][:size] > 0) & (labels[1][:size] > 0)))
    head = f"no pair to sample: {both} of {len(index.difficulty)} problems have both correct and incorrect solutions"
    if not both:
        return f"{head}; choose a dataset with incorrect ones"
    fixes = ["raise length_ratio or set length_balanced=false"] if config.length_balanced else []
    fixes += config.fixes()
    return f"{head}; {', or '.join(fixes)}"
