"""`wmtp report`: which kind of folder it is, and its page."""

from pathlib import Path

from weighted_mtp.errors import UserError
from weighted_mtp.pipelines.config import EvaluationConfig
from weighted_mtp.pipelines.fit import run_options
from weighted_mtp.pipelines.kinds import pipeline_of
from weighted_mtp.report.evaluation_page import read_report, write_evaluation_page
from weighted_mtp.report.run_page import write_run_page
from weighted_mtp.report.study_page import write_study_page
from weighted_mtp.section import changed


def write_report_page(folder: Path, output: Path) -> Path:
    """Write the page of an evaluation, a study or a run; returns the file.

    Raises UserError for a folder that is none of these, and for an evaluation or a study that is not finished.
    """
    if (folder / "evaluation.json").is_file() or (folder / "results.jsonl").is_file():
        report = read_report(folder)
        return write_evaluation_page(folder, report, changed(EvaluationConfig, report["config"]), output)
    if (folder / "comparison.json").is_file():
        return write_study_page(folder, output)
    if (folder / "metrics.jsonl").is_file():
        options = run_options(folder)
        schema = pipeline_of(options, str(folder / "config.yaml")).schema
        return write_run_page(folder, changed(schema, options), output)
    raise UserError(
        f"{folder}: holds no results.jsonl, comparison.json or metrics.jsonl; give the folder of an evaluation "
        "(`wmtp evaluate --output`), of a finished study or of a training run"
    )
