"""What a run is a function of beside its options: kept as checksums in `run.json`, compared when it is resumed."""

import datetime
import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel
from transformers import PreTrainedTokenizerBase

from weighted_mtp.data.load import SplitsConfig
from weighted_mtp.data.prompts import names_a_date
from weighted_mtp.data.tokens import contents_of, tokenizer_identity
from weighted_mtp.errors import UserError
from weighted_mtp.models.checkpoint import run_of
from weighted_mtp.progress import console
from weighted_mtp.runtime.distributed import by_first_rank
from weighted_mtp.training.run_directory import RunDirectory

Inputs = Mapping[str, str]
"""What it is (`critic`, `data micro/train`) → its checksum."""

TEMPLATE_DATE = "template date"


def data_inputs(config: SplitsConfig, tokenizer: PreTrainedTokenizerBase, day: datetime.date) -> dict[str, str]:
    """The splits, the tokenizer, and the date that prompts name if they name one.

    day  as `template_day` gives it

    Raises UserError for a `data.date` that no prompt names.
    """
    dated = names_a_date(config.template, tokenizer)
    if config.date is not None and not dated:
        raise UserError(
            f"data.date={config.date} has no effect: data.template={config.template} of this tokenizer names no date; "
            "leave it out"
        )
    splits = [split for split in (config.train, config.validation) if split is not None]
    folders = [folder for split in splits for folder in config.folders(split)]
    contents = {f"data {folder.parent.name}/{folder.name}": digest(*contents_of(folder)) for folder in folders}
    date = {TEMPLATE_DATE: day.isoformat()} if dated else {}
    return {**contents, "tokenizer": tokenizer_identity(tokenizer), **date}


def template_day(run: Path, given: datetime.date | None = None) -> datetime.date:
    """What a chat template of a run takes for today: the given date, else the day on which the run started.

    run  its folder, which may not be there yet
    """
    return given or by_first_rank(lambda: _recorded_day(run)) or by_first_rank(datetime.date.today)


def recorded_inputs(run: Path) -> Inputs:
    """What a run started with, or has accepted since; empty if there is no run."""
    file = run / "run.json"
    found: Inputs = json.loads(file.read_text()).get("inputs", {}) if file.is_file() else {}
    return found


def _recorded_day(run: Path) -> datetime.date | None:
    found = recorded_inputs(run).get(TEMPLATE_DATE)
    return datetime.date.fromisoformat(found) if found is not None else None


def trained_day(model: Path) -> datetime.date | None:
    """The date in the prompts that a model was trained on; None if they had none, or if no run is known.

    model  a run, or something in it
    """
    run = run_of(model)
    return _recorded_day(run) if run is not None else None


def remember_inputs(run: RunDirectory, inputs: Inputs) -> None:
    """Write what a run begins with to its `run.json`."""
    by_first_rank(lambda: run.remember(inputs=dict(inputs)))


def check_inputs(run: RunDirectory, inputs: Inputs, step: int, accept: bool) -> None:
    """Refuse to resume a run from other inputs than it began with, or if that is accepted, record the change.

    step  that it is resumed from

    Raises UserError, in one line that names what has changed.
    """
    by_first_rank(lambda: _check(run, inputs, step, accept))


def _check(run: RunDirectory, inputs: Inputs, step: int, accept: bool) -> None:
    known = run.manifest()
    before: Inputs = known.get("inputs", inputs)
    changed = [name for name in {**before, **inputs} if before.get(name) != inputs.get(name)]
    if not changed:
        return
    names = ", ".join(changed)
    if not accept:
        raise UserError(
            f"{run.path}: not what it was when the run began: {names}; put that back, give this run another run.name, "
            "or resume it with --accept-changes"
        )
    changes = {name: {"before": before.get(name), "after": inputs.get(name)} for name in changed}
    accepted = {"step": step, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "changes": changes}
    run.remember(inputs=dict(inputs), accepted_changes=[*known.get("accepted_changes", []), accepted])
    console.print(f"{run.path}: accepted from step {step} on, and recorded: {names}", highlight=False, soft_wrap=True)


def digest(*parts: str | BaseModel) -> str:
    """SHA-256 of some texts or sections of a configuration."""
    texts = [part if isinstance(part, str) else part.model_dump_json() for part in parts]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()
