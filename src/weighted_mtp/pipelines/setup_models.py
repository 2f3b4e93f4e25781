"""Models for training: fetched, converted to safetensors with prediction heads, checked; and micro models.

    uv run python scripts/create_storage/setup_models.py --model meta-llama-mtp --create-micro --micro-init random
    uv run wmtp models setup --model SmolLM2-135M-Instruct.Q4_1.gguf

Every step can be repeated: a broken download resumes, a model that exists is kept.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from weighted_mtp import hub
from weighted_mtp.data.preparation.prepare import prepare_embedded
from weighted_mtp.data.preparation.registry import MICRO
from weighted_mtp.errors import UserError
from weighted_mtp.models.card import ModelOrigin, completed, is_hub_id
from weighted_mtp.models.catalog import KNOWN, ModelRole, short_name
from weighted_mtp.models.checkpoint import load_tokenizer
from weighted_mtp.models.convert import DEFAULT_HEADS, Heads, convert, load_base, with_heads, without_heads, write_model
from weighted_mtp.models.micro import MicroSize, micro_from, random_micro
from weighted_mtp.models.model_folder import check_model

STEPS = ("download", "convert", "verify")
MicroInit = Literal["random", "from-base"]


@dataclass(frozen=True)
class ModelRequest:
    """One model to set up.

    model            name in the catalogue, hub id, folder or .gguf file
    kind             policy with heads, or plain causal LM
    n_future_tokens  heads of the policy; None for as many as its files have, or 4 if they have none
    source           the model's own files, in place of a download
    tokenizer        SentencePiece model of files in Meta's format that lack it
    """

    model: str
    kind: ModelRole
    n_future_tokens: int | None
    source: Path | None
    storage: Path
    tokenizer: Path | None = None

    @property
    def heads(self) -> Heads:
        """The heads that `convert` gives the model."""
        return None if self.kind == "reference" else self.n_future_tokens or "as stored"

    @property
    def name(self) -> str:
        return short_name(self.model, self.kind)

    @property
    def output(self) -> Path:
        return self.storage / "models" / self.name

    @property
    def is_local(self) -> bool:
        return self.source is not None or Path(self.model).expanduser().exists()

    @property
    def base_model(self) -> str:
        """Its id on the hub, "" if it has none."""
        if self.model in KNOWN:
            return KNOWN[self.model].repository
        return self.model if is_hub_id(self.model) else ""

    @property
    def downloads(self) -> Path:
        return self.storage / "downloads" / "models" / self.name


def download(request: ModelRequest) -> None:
    """Fetch the model's own files from the hub; nothing to do for a local source."""
    if request.is_local:
        print(f"{request.name}: {request.source or request.model} is here, nothing to download")
        return
    known = KNOWN.get(request.model)
    licence = f"; licence: {known.licence}" if known else ""
    fetched = hub.fetch(
        known.repository if known else request.model,
        "model",
        patterns=known.patterns if known else None,
        to=request.downloads,
        instead=f"{'' if known else 'there is no such path here either: '}give --source, a folder with the model's own "
        f"files{licence}",
    )
    print(f"{request.name}: downloaded to {fetched.folder}, revision {fetched.revision}")


def make(request: ModelRequest) -> None:
    """Write `storage/models/<name>` from the downloaded or given files, unless it is there."""
    if request.output.exists():
        print(f"{request.output}: exists already; remove it to rebuild it")
        return
    known = KNOWN.get(request.model)
    source, revision = _files_of(request)
    origin = ModelOrigin(
        known.repository if known else request.model,
        "Converted to safetensors" + (" with prediction heads." if request.kind == "mtp" else "."),
        known.licence if known else "",
        revision,
        known.licence_id if known else "",
        request.base_model,
    )
    convert(source, request.output, request.heads, origin=origin, tokenizer=request.tokenizer)
    print(f"{request.output}: written")


def _files_of(request: ModelRequest) -> tuple[str, str]:
    """Where the model's own files lie, and of which revision of the hub's repository they are."""
    if not request.is_local:
        if not request.downloads.is_dir():
            raise UserError(
                f"{request.downloads}: not downloaded yet; add download to --steps, or give --source with its files"
            )
        folder, revision = request.downloads, hub.fetched_revision(request.downloads)
    else:
        folder, revision = request.source or Path(request.model).expanduser(), ""
    known = KNOWN.get(request.model)
    inner = folder / known.folder if known else folder
    return str(inner if inner.is_dir() else folder), revision


def verify(request: ModelRequest) -> None:
    """Check the converted model: checksums, weights against config.json, heads, tokenizer."""
    if not request.output.is_dir():
        raise UserError(f"{request.output}: is not there; make it with --steps download,convert")
    print(f"{request.output}: {check_model(request.output)}; good")


def create_micro(request: ModelRequest, kind: ModelRole, init: MicroInit, seed: int) -> Path:
    """Write `storage/models/micro-<kind>`, replacing an earlier one; returns the folder.

    random     a new small Llama with the micro benchmark's tokenizer
    from-base  weights and tokenizer of the model that `request` names, which must be set up or given
    """
    output = request.storage / "models" / f"micro-{kind}"
    torch.manual_seed(seed)
    if init == "random":
        prepare_embedded(MICRO, root=request.storage / "datasets")
        tokenizer = load_tokenizer(request.storage / "datasets" / MICRO / "tokenizer")
        heads = (request.n_future_tokens or DEFAULT_HEADS) if kind == "mtp" else None
        model = random_micro(MicroSize(), tokenizer, heads)
        origin = ModelOrigin("none", f"A small Llama drawn at random (seed {seed}), for local tests.")
    else:
        source = str(request.output) if request.output.is_dir() else _files_of(request)[0]
        base, tokenizer = load_base(source)
        cut = micro_from(base, MicroSize())
        model = with_heads(cut, request.n_future_tokens or "as stored") if kind == "mtp" else without_heads(cut)
        how = "Cut out of a larger model by weight selection, for local tests."
        origin = completed(ModelOrigin(request.model, how, base_model=request.base_model), Path(tokenizer.name_or_path))
    write_model(model, tokenizer, output, origin)
    print(f"{output}: {check_model(output)}")
    return output
