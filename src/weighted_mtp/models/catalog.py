"""Models known by a short name, and where each kind of source finds its files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ModelRole = Literal["mtp", "reference"]


@dataclass(frozen=True)
class KnownModel:
    """A published model.

    repository  on the hub
    kind        `mtp`: becomes a policy with heads; `reference`: stays a plain causal LM
    patterns    the files that are needed
    folder      of the repository, where the weights lie
    licence     in the publisher's words, and what it asks of the user
    licence_id  what a hub calls it, or a short name of the publisher's own
    """

    repository: str
    kind: ModelRole
    patterns: tuple[str, ...] | None
    folder: str
    licence: str
    licence_id: str


KNOWN = {
    "meta-llama-mtp": KnownModel(
        repository="facebook/multi-token-prediction",
        kind="mtp",
        patterns=("7B_1T_4/*", "tokenizer.model", "LICENSE*", "*.md"),
        folder="7B_1T_4",
        licence="Multi-token Prediction Research License of Meta: non-commercial research, gated",
        licence_id="multi-token-prediction-research-license",
    ),
    "ref-sheared-llama": KnownModel(
        repository="princeton-nlp/Sheared-LLaMA-2.7B",
        kind="reference",
        patterns=None,
        folder="",
        licence="Apache 2.0; derived from Llama 2, so that model's community licence binds, too",
        licence_id="apache-2.0",
    ),
}


def short_name(model: str, kind: ModelRole) -> str:
    """The folder under `storage/models` that a model gets: its own name if it is known, else one made from its
    source."""
    if model in KNOWN:
        return model
    stem = Path(model).name.removesuffix(".gguf")
    return f"{stem}-{kind}"


def setup_command(name: str) -> str:
    """The command that makes `storage/models/<name>`."""
    if name in ("micro-mtp", "micro-reference"):
        return f"uv run wmtp models setup --create-micro --micro-type {name.removeprefix('micro-')}"
    return f"uv run wmtp models setup --model {name if name in KNOWN else 'SOURCE'}"
