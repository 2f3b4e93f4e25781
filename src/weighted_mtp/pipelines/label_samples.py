"""A policy's own programs, executed, as a dataset: a critic learns from its failures, a policy from its successes.

    uv run wmtp evaluate --checkpoint storage/runs/RUN --benchmark micro --split train --n 8 --temperature 1 --output A
    uv run wmtp evaluate --checkpoint storage/runs/RUN --benchmark micro --split validation … --output B
    uv run wmtp label A B --name own
    uv run wmtp train critic --config configs/local/critic_local.yaml --override data.dataset=own

The dataset is written to `storage/datasets/NAME`, with index and statistics like any other.
"""

from collections.abc import Sequence
from pathlib import Path

from weighted_mtp.evaluation.config import LabelOptions
from weighted_mtp.evaluation.own_programs import authors_differ, read_evaluation, write_labelled
from weighted_mtp.pipelines.setup_datasets import describe_dataset
from weighted_mtp.report.datasets import account

MOSTLY = 0.9
"""Share of pairs by two authors above which a warning is printed: it was 0.98 when weights harmed, 0.48 when they
helped."""


def label(evaluations: Sequence[Path], folder: Path, options: LabelOptions) -> None:
    """Write the dataset of these evaluations' programs to `folder`, and say what it holds.

    Raises UserError as `read_evaluation` and `write_labelled`.
    """
    manifest, is_new = write_labelled(folder, [read_evaluation(place) for place in evaluations], options)
    state = f"{manifest['rows_in']:,} samples in" if is_new else "up to date"
    for line in (f"{folder}: {state}", *(f"  {line}" for line in account(manifest))):
        print(line)
    describe_dataset(folder)
    for split in manifest["splits"]:
        if (share := authors_differ(folder / split)) > MOSTLY:
            note = (
                f"{share:.0%} of its pairs are of a policy's program and another's: a critic may learn who wrote them"
            )
            remedy = "sample more programs per problem, or from a policy that passes more often, for pairs of its own"
            print(f"{split}: {note}; {remedy}")
