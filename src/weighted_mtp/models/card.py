"""A model's card: what people read of it, under a head of facts that a hub checks before it takes the folder."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from weighted_mtp.manifest import MANIFEST

CARD = "README.md"
# As the hub's documentation of repository licences lists them; "other" goes with a name of the publisher's own.
_LICENCES = """
afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0
eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 h-research intel-research isc
lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl
odc-by ofl-1.1 openrail openrail++ osl-3.0 pddl postgresql unknown unlicense wtfpl zlib
"""
LICENCES = frozenset(_LICENCES.split())


@dataclass(frozen=True)
class ModelOrigin:
    """Where a model comes from.

    name        of the model it was made from: a hub id, a file or a folder
    how         one sentence on how it was made
    licence     what the publisher calls it, and asks of the user; "" if that is not known
    revision    commit of the hub's repository; "" if there is none
    licence_id  one of `LICENCES`, or a short name of the publisher's own; "" if that is not known
    base_model  id on the hub of the model that it was made from, at first hand or not; "" if it has none
    """

    name: str
    how: str
    licence: str = ""
    revision: str = ""
    licence_id: str = ""
    base_model: str = ""


def is_hub_id(name: str) -> bool:
    """Whether a name can be OWNER/NAME on a hub, rather than a path here."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1 and not Path(name).expanduser().exists()


def completed(origin: ModelOrigin, folder: Path) -> ModelOrigin:
    """`origin`, with licence and base model taken from the card in `folder` if it does not know them itself."""
    try:
        text = (folder / CARD).read_text(encoding="utf-8")
        data = ModelCard(text, ignore_metadata_errors=True).data.to_dict()
    except (ValueError, OSError, yaml.YAMLError):  # none, or one that has no facts
        return origin
    named = data.get("license_name") if data.get("license") == "other" else data.get("license")
    bases = data.get("base_model")
    base = bases[0] if isinstance(bases, list) and bases else bases
    return replace(
        origin,
        licence=origin.licence or str(named or ""),
        licence_id=origin.licence_id or str(named or ""),
        base_model=origin.base_model or (base if isinstance(base, str) and is_hub_id(base) else ""),
    )


def card(
    name: str,
    is_policy: bool,
    origin: ModelOrigin,
    facts: dict[str, Any],
    results: Sequence[EvalResult] = (),
    load_from: str = "FOLDER",
) -> str:
    """The card of a model called `name`.

    facts      its heads, parameters and dtype
    results    what it was measured to reach, the interval of each in its `metric_args`
    load_from  what `from_pretrained` is given in the card's example
    """
    trusted = ", trust_remote_code=True" if is_policy else ""
    load = [
        "from transformers import AutoModelForCausalLM",
        "",
        *(["# model(...) is trunk + head 1; model.head_states(...) is all heads"] if is_policy else []),
        f'model = AutoModelForCausalLM.from_pretrained("{load_from}"{trusted})',
    ]
    lines = [
        f"# {name}",
        "",
        f"{origin.how} Made from `{origin.name}`" + (f" at revision `{origin.revision}`." if origin.revision else "."),
        "",
        "| | |",
        "|---|---|",
        f"| prediction heads | {facts['n_future_tokens'] or 'none: a plain causal LM'} |",
        f"| parameters | {facts['parameters'] / 1e6:.1f} M |",
        f"| stored as | {facts['dtype']} |",
        f"| licence | {origin.licence or 'that of the model it was made from'} |",
        "",
        *_measured(results),
        "```python",
        *load,
        "```",
        "",
        f"`{MANIFEST}` has size and SHA-256 of every file; `wmtp verify --check models` compares them.",
    ]
    head = _head(name, is_policy, origin, results).to_yaml()
    return "\n".join(["---", head, "---", "", *lines]) + "\n"


def _measured(results: Sequence[EvalResult]) -> list[str]:
    """A table of what was measured; nothing if nothing was."""
    if not results:
        return []
    rows = [
        f"| {result.dataset_name}, {result.dataset_split} | {result.metric_name} | {result.metric_value:.3f} "
        f"| {low:.3f} – {high:.3f} | {args['problems']:,} × {args['samples_per_problem']} |"
        for result in results
        for args in [result.metric_args or {}]
        for low, high in [args["interval"]]
    ]
    header = ["| benchmark | measure | value | 95 % interval | problems × samples |", "|---|---|---|---|---|"]
    return ["Programs were executed in isolation:", "", *header, *rows, ""]


def _head(name: str, is_policy: bool, origin: ModelOrigin, results: Sequence[EvalResult]) -> ModelCardData:
    """What a hub reads: it refuses an unknown licence and a `base_model` that is no id, so what is not known is left
    out."""
    own = origin.licence_id.lower()
    own = own if own in LICENCES else re.sub(r"[^a-z0-9.-]+", "-", own).strip("-.")
    is_known = own in LICENCES
    return ModelCardData(
        license=own if is_known else "other" if own else None,
        license_name=own if own and not is_known else None,
        base_model=origin.base_model or None,
        library_name="weighted-mtp" if is_policy else "transformers",
        pipeline_tag="text-generation",
        tags=["code", "multi-token-prediction", "custom_code"] if is_policy else None,
        model_name=name if results else None,
        eval_results=list(results) or None,
    )
