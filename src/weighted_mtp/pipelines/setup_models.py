"""Models for training: fetched, converted to safetensors with prediction heads, checked; and micro models.

    uv run python scripts/create_storage/setup_models.py --model meta-llama-mtp --create-micro --micro-init random
    uv run wmtp models setup --model SmolLM2-135M-Instruct.Q4_1.gguf

Every step can be repeated: a broken download resumes, a model that exists is kept.
"""

from dataclasses import dataclass
from pathlib import Path

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
from weighted_mtp.pipelines.command import chosen
from weighted_mtp.pipelines.config import ModelSetupConfig


@dataclass(frozen=True)
class ModelRequest:
    """One model to set up: what was asked for, and what follows from it."""

    config: ModelSetupConfig

    @property
    def kind(self) -> ModelRole:
        """A policy with heads, or a plain causal LM."""
        known = KNOWN.get(self.config.model)
        return self.config.kind or (known.kind if known else "mtp")

    @property
    def heads(self) -> Heads:
        """The heads that `convert` gives the model."""
        return None if self.kind == "reference" else self.config.n_future_tokens or "as stored"

    @property
    def name(self) -> str:
        return short_name(self.config.model, self.kind)

    @property
    def output(self) -> Path:
        return self.config.storage / "models" / self.name

    @property
    def is_local(self) -> bool:
        return self.config.source is not None or Path(self.config.model).expanduser().exists()

    @property
    def base_model(self) -> str:
        """Its id on the hub, "" if it has none."""
        if self.config.model in KNOWN:
            return KNOWN[self.config.model].repository
        return self.config.model if is_hub_id(self.config.model) else ""

    @property
    def downloads(self) -> Path:
        return self.config.storage / "downloads" / "models" / self.name


def setup(config: ModelSetupConfig) -> None:
    """Do what is asked for. Raises UserError for an unknown step and whatever a step refuses."""
    request = ModelRequest(config)
    none = config.create_micro and config.steps is None
    steps = () if none else chosen("--steps", config.steps or ["all"], tuple(STEPS))
    for name in steps:
        STEPS[name](request)
    if config.create_micro:
        create_micro(request)


def download_model(request: ModelRequest) -> None:
    """Fetch the model's own files from the hub; nothing to do for a local source."""
    if request.is_local:
        print(f"{request.name}: {request.config.source or request.config.model} is here, nothing to download")
        return
    known = KNOWN.get(request.config.model)
    licence = f"; licence: {known.licence}" if known else ""
    fetched = hub.fetch(
        known.repository if known else request.config.model,
        "model",
        patterns=known.patterns if known else None,
        to=request.downloads,
        instead=f"{'' if known else 'there is no such path here either: '}give --source, a folder with the model's own "
        f"files{licence}",
    )
    print(f"{request.name}: downloaded to {fetched.folder}, revision {fetched.revision}")


def convert_model(request: ModelRequest) -> None:
    """Write `storage/models/<name>` from the downloaded or given files, unless it is there."""
    if request.output.exists():
        print(f"{request.output}: exists already; remove it to rebuild it")
        return
    known = KNOWN.get(request.config.model)
    source, revision = _files_of(request)
    origin = ModelOrigin(
        known.repository if known else request.config.model,
        "Converted to safetensors" + (" with prediction heads." if request.kind == "mtp" else "."),
        known.licence if known else "",
        revision,
        known.licence_id if known else "",
        request.base_model,
    )
    convert(source, request.output, request.heads, origin=origin, tokenizer=request.config.tokenizer)
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
        folder, revision = request.config.source or Path(request.config.model).expanduser(), ""
    known = KNOWN.get(request.config.model)
    inner = folder / known.folder if known else folder
    return str(inner if inner.is_dir() else folder), revision


def verify_model(request: ModelRequest) -> None:
    """Check the converted model: checksums, weights against config.json, heads, tokenizer."""
    if not request.output.is_dir():
        raise UserError(f"{request.output}: is not there; make it with --steps download,convert")
    print(f"{request.output}: {check_model(request.output)}; good")


STEPS = {"download": download_model, "convert": convert_model, "verify": verify_model}


def create_micro(request: ModelRequest) -> None:
    """Write `storage/models/micro-<type>`, replacing an earlier one.

    random     a new small Llama with the micro benchmark's tokenizer
    from-base  weights and tokenizer of the model that `request` names, which must be set up or given
    """
    config, kind = request.config, request.config.micro_type
    output = config.storage / "models" / f"micro-{kind}"
    torch.manual_seed(config.seed)
    if config.micro_init == "random":
        prepare_embedded(MICRO, root=config.storage / "datasets")
        tokenizer = load_tokenizer(config.storage / "datasets" / MICRO / "tokenizer")
        heads = (config.n_future_tokens or DEFAULT_HEADS) if kind == "mtp" else None
        model = random_micro(MicroSize(), tokenizer, heads)
        origin = ModelOrigin("none", f"A small Llama drawn at random (seed {config.seed}), for local tests.")
    else:
        source = str(request.output) if request.output.is_dir() else _files_of(request)[0]
        base, tokenizer = load_base(source)
        cut = micro_from(base, MicroSize())
        model = with_heads(cut, config.n_future_tokens or "as stored") if kind == "mtp" else without_heads(cut)
        how = "Cut out of a larger model by weight selection, for local tests."
        origin = completed(ModelOrigin(config.model, how, base_model=request.base_model), Path(tokenizer.name_or_path))
    write_model(model, tokenizer, output, origin)
    print(f"{output}: {check_model(output)}")
