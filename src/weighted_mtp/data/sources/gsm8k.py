"""GSM8K (Cobbe et al. 2021, arXiv 2110.14168): grade-school mathematics, 7,473 to train on and 1,319 to test on."""

import re
from collections.abc import Iterator
from pathlib import Path

from weighted_mtp.data.schema import Entry, Problem, Solution, TestCase
from weighted_mtp.data.sources.rows import DEFAULT, Reading, SourceRow, read_rows, unix
from weighted_mtp.errors import UserError

_COLUMNS = {"question": str, "answer": str}
_FINAL = re.compile(r"####\s*\$?(-?[\d,]+(?:\.\d+)?)\s*$")
_CALCULATION = re.compile(r"<<[^<>]*>>")


def read(path: Path, reading: Reading = DEFAULT) -> Iterator[Entry]:
    """Questions and worked answers of `train.jsonl` or `test.jsonl(.gz)`, or the hub's Parquet.

    A solution is the answer's text, which ends with its number after "#### ". Departure: the calculator's annotations
    are removed ("48/2 = <<48/2=24>>24" → "48/2 = 24"), as no calculator is called when a model is sampled. That number
    without its commas is the one test. A problem is named by its line.

    Raises UserError as `read_rows`, or for an answer without a final number.
    """
    for row in read_rows(path, _COLUMNS, reading.on_bytes, reading.group):
        split = reading.split or "train"
        name = f"gsm8k/{split}/{row.line - 1}"
        problem = Problem(
            problem_id=name,
            source="gsm8k",
            split=split,
            description=unix(row["question"]).strip(),
            tests=(TestCase("answer", "", _number(row)),),
        )
        text = _CALCULATION.sub("", unix(row["answer"])).strip()
        yield Entry(problem, [Solution(f"{name}/reference", name, text, True, language="text")], row.where)


def _number(row: SourceRow) -> str:
    found = _FINAL.search(row["answer"])
    if found is None:
        raise UserError(
            f"{row.where}: the answer ends with {row['answer'][-30:]!r}, not with #### and a number; "
            "give the file in its upstream form"
        )
    return found[1].replace(",", "")
