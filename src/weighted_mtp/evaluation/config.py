"""What a dataset of a policy's own programs takes over from evaluations."""

from weighted_mtp.section import Names, Section

LEARNED_FROM = ("train", "validation")
"""Splits whose programs may be learned from, by default."""


class LabelOptions(Section):
    """What is taken over."""

    splits: Names = LEARNED_FROM
    """Splits whose programs may be taken, each into the split of its name; an evaluation of another one is refused."""
    keep_solutions: bool = False
    """Take the dataset's own correct and incorrect solutions of these problems, too; they come before the policy's."""
    keep_unfinished: bool = False
    """Keep programs that were cut at the longest answer allowed: what fails then is the limit, not the policy."""
