"""Tables of a prepared dataset."""

from weighted_mtp.evaluation.check_labels import Agreement
from weighted_mtp.report.datasets import agreement_table, counts_table

WRITTEN = ("test", "validation", "own", "train")
READ = ["train", "validation", "test", "own"]


def test_splits_stand_in_the_order_in_which_they_are_used_however_they_were_written() -> None:
    counts = {split: {"problems": 1, "correct": 1, "incorrect": 0} for split in WRITTEN}
    agreements = {split: Agreement(1, 1, 0, 0, {}, []) for split in WRITTEN}
    for table in (counts_table(counts), agreement_table("mine", agreements)):
        assert list(table.columns[0].cells) == READ
