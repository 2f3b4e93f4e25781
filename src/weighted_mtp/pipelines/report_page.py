"""`wmtp report`: which kind of folder it is, and its page."""

from pathlib import Path

from weighted_mtp.config import changed
from weighted_mtp.errors import UserError
from weighted_mtp.pipelines.run_evaluation import EvaluationConfig
from weighted_mtp.report.evaluation_page import read_report, write_evaluation_page


def write_report_page(folder: Path, output: Path) -> Path:
    """Write the page of an evaluation; returns the file.

    Raises UserError for a folder that is none, or holds one that is not finished.
    """
    if (folder / "evaluation.json").is_file() or (folder / "results.jsonl").is_file():
        report = read_report(folder)
        return write_evaluation_page(folder, report, changed(EvaluationConfig, report["config"]), output)
    raise UserError(f"{folder}: holds no results.jsonl; give the folder of an evaluation (`wmtp evaluate --output`)")
