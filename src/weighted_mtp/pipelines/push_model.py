"""`wmtp models push`: a model with a card that says where it comes from and what it was measured to reach.

The card's facts are the folder's own (its manifest, or the run that trained it) and those of evaluations of the same
weights, which are told by their checksum. What is uploaded is assembled in a temporary folder, weights by link.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, try_to_load_from_cache

from weighted_mtp.data.preparation.registry import DATASETS
from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.answers import model_checksum
from weighted_mtp.hub.commit import commit
from weighted_mtp.manifest import MANIFEST, read_manifest
from weighted_mtp.models.adapters import holds_adapters
from weighted_mtp.models.card import CARD, LICENCES, ModelOrigin, completed, is_hub_id
from weighted_mtp.models.checkpoint import CRITIC, newest_model, read_config, run_of, step_of
from weighted_mtp.models.model_folder import describe_model
from weighted_mtp.pipelines.fit import run_options
from weighted_mtp.report.evaluation_page import read_report
from weighted_mtp.wording import nearest

EVALUATIONS = Path("storage/evaluations")
_WEIGHTS = ".safetensors"


def push_model(
    folder: Path,
    repo_id: str,
    *,
    evaluations: Sequence[Path] = (),
    licence: str = "",
    private: bool = True,
    update: bool = False,
) -> str:
    """Commit a policy or an exported model to the hub; returns the repository's page.

    folder       a model folder, a checkpoint, or a run, of which the newest checkpoint counts
    evaluations  folders in which evaluations of these weights lie; where none is given, `EVALUATIONS` if it is there
    licence      one of `LICENCES`, in place of what the folder knows

    Raises UserError for a folder that is none of these, evaluations of other weights, an unknown licence, and what
    `hub.commit` refuses.
    """
    model = newest_model(folder)
    _check(model)
    origin = _licensed(origin_of(model), licence)
    results = _results(model, evaluations)
    with tempfile.TemporaryDirectory(prefix="wmtp-push-") as temporary:
        staged = Path(temporary)
        for file in sorted(model.iterdir()):
            if file.suffix == _WEIGHTS:
                (staged / file.name).symlink_to(file.resolve())
            elif file.is_file() and file.name not in (CARD, MANIFEST):
                shutil.copyfile(file, staged / file.name)
        describe_model(staged, repo_id.rpartition("/")[2], origin, results, load_from=repo_id)
        return commit(staged, repo_id, private=private, update=update, message="wmtp models push")


def _check(model: Path) -> None:
    if holds_adapters(model):
        raise UserError(
            f"{model}: holds only adapters; write the whole policy with `wmtp models convert {model} DIR` and push DIR"
        )
    kind = read_config(model).get("model_type")
    if kind == CRITIC:
        raise UserError(
            f"{model}: a critic, which no other program loads; push a policy, or what `models export` writes"
        )
    if not any(model.glob(f"*{_WEIGHTS}")):
        raise UserError(f"{model}: holds no weights in safetensors; make a policy of it with `wmtp models convert`")


def _licensed(origin: ModelOrigin, licence: str) -> ModelOrigin:
    if not licence:
        return origin
    if licence not in LICENCES:
        near = nearest(licence, LICENCES)
        raise UserError(f"--license {licence}: the hub does not know it; the nearest that it knows is {near}")
    return replace(origin, licence=licence, licence_id=licence)


def origin_of(model: Path) -> ModelOrigin:
    """Where a model comes from: as its manifest says, or that a run trained it, with the licence of what it trained."""
    if (manifest := read_manifest(model)) and "origin" in manifest:
        return ModelOrigin(**manifest["origin"])
    run = run_of(model)
    if run is None:
        return completed(ModelOrigin(model.name, "A causal language model."), model)
    options = run_options(run)
    source = str(options["model"]["source"])
    kind = options["pipeline"].replace("_", "-")
    how = f"Trained with `wmtp train {kind}` for {step_of(model.parent):,} steps."
    own = ModelOrigin(source if is_hub_id(source) else Path(source).name, how)
    if is_hub_id(source):
        known = try_to_load_from_cache(source, CARD)
        own = replace(own, base_model=source)
        return completed(own, Path(known).parent) if isinstance(known, str) else own
    if not Path(source).is_dir():
        return own
    base = origin_of(newest_model(Path(source)))
    return replace(own, licence=base.licence, licence_id=base.licence_id, base_model=base.base_model)


def _results(model: Path, places: Sequence[Path]) -> list[EvalResult]:
    found = list(_evaluations(places or [EVALUATIONS]))
    if not places and not found:
        return []
    checksum = model_checksum(model)
    ours = [report for report, measured in found if measured == checksum]
    if places and not ours:
        where = ", ".join(map(str, places))
        raise UserError(
            f"--evaluation {where}: holds no finished evaluation of the weights in {model}; make one with "
            f"`wmtp evaluate --checkpoint {model}`, or leave the option out"
        )
    return [result for report in ours for result in eval_results(report)]


def _evaluations(places: Sequence[Path]) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Every finished evaluation in these folders: its report, and the checksum of the model that it is of."""
    for place in places:
        for file in sorted(place.rglob("report.json")):
            described = file.with_name("evaluation.json")
            if described.is_file():
                origin = json.loads(described.read_text(encoding="utf-8"))["origin"]
                yield read_report(file.parent), origin.get("model_sha256")


def eval_results(report: Mapping[str, Any]) -> list[EvalResult]:
    """An evaluation's `report.json` → entries of a card's `model-index`, one for every k of pass@k."""
    config, problems = report["config"], report["problems"]
    sampling, name = config["sampling"], config["benchmark"]
    dataset = DATASETS.get(name)
    how = {
        "problems": problems,
        "samples_per_problem": report["samples"] // problems,
        "temperature": sampling["temperature"],
        "top_p": sampling["top_p"],
    }
    return [
        EvalResult(
            task_type="text-generation",
            task_name="Code generation",
            dataset_type=dataset.hub if dataset and dataset.hub else name,
            dataset_name=name,
            dataset_split=config["split"],
            metric_type=f"pass@{k}",
            metric_name=f"pass@{k} at temperature {sampling['temperature']:g}",
            metric_value=estimate["value"],
            metric_args={**how, "interval": [estimate["low"], estimate["high"]], "confidence": estimate["confidence"]},
        )
        for k, estimate in report["pass_at_k"].items()
    ]
