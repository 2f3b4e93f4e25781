"""What every training run shares: its folder, its options, and the way from the parts of a method to a finished run."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from weighted_mtp.config import read_options
from weighted_mtp.data.batches import Batch
from weighted_mtp.data.stream import BatchStream
from weighted_mtp.errors import UserError
from weighted_mtp.losses.objective import Objective
from weighted_mtp.models.adapters import save_adapters
from weighted_mtp.models.checkpoint import checkpoints_in, step_of
from weighted_mtp.models.convert import adapter_base
from weighted_mtp.models.fingerprint import fingerprint
from weighted_mtp.pipelines.inputs import Inputs, check_inputs, remember_inputs
from weighted_mtp.progress import console
from weighted_mtp.report.links import PAGE
from weighted_mtp.report.run_page import write_run_page
from weighted_mtp.runtime.config import RuntimeConfig
from weighted_mtp.runtime.device import autocast, pick_device
from weighted_mtp.runtime.distributed import by_first_rank, is_first, ranks
from weighted_mtp.runtime.sharding import WholeModel, whole_tensor
from weighted_mtp.section import Section, changed
from weighted_mtp.training.loop import Trainer, TrainingConfig
from weighted_mtp.training.optim import Group, OptimConfig, build_optimizer
from weighted_mtp.training.run_directory import RunDirectory, holds_run
from weighted_mtp.training.state import Best, Checkpoints, SaveModel, TrainState
from weighted_mtp.training.tracking import Tracked, Tracker
from weighted_mtp.training.updates import Updates
from weighted_mtp.training.upload import Uploads
from weighted_mtp.wording import near_paths


class RunConfig(Section):
    """What the run is called, and where its folder lies: `<root>/<name>`."""

    name: str
    """Name of the run, and of its folder below `root`."""
    root: Path = Path("storage/runs")
    """Folder of all runs."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of everything random: new parameters, the order of batches, what is sampled from the data."""
    accept_changes: bool = Field(False, exclude=True)
    """Resume even if a critic, a reference, data or a tokenizer has changed since the run began: `--accept-changes`.
    It is no part of the run, whose `run.json` says what was accepted."""

    @field_validator("name")
    @classmethod
    def _within_the_root(cls, name: str) -> str:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{name} lies outside of run.root: give a name, or folders below the root")
        return name


class _Fit(Section):
    """The options that all training runs have, but for those of their trackers."""

    pipeline: str
    """What kind of run this is: a name in `pipelines/kinds.py`. Each pipeline's schema allows its own."""
    run: RunConfig
    optim: OptimConfig = OptimConfig()
    training: TrainingConfig = TrainingConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="before")
    @classmethod
    def _is_of_this_pipeline(cls, values: Any) -> Any:
        own = cls.model_fields["pipeline"].default
        given = values.get("pipeline", own) if isinstance(values, dict) else own
        if given != own:
            command = f"wmtp train {str(given).replace('_', '-')}"
            raise ValueError(f"pipeline={given}, but this is {own}: run `{command}`, or set pipeline={own}")
        return values

    @model_validator(mode="after")
    def _warmup_ends(self) -> Self:
        warmup, steps = self.optim.warmup_steps, self.training.max_steps
        if warmup >= steps:
            raise ValueError(
                f"optim.warmup_steps={warmup} must be less than training.max_steps={steps}, or the learning rate only "
                f"rises: set optim.warmup_steps={steps // 10}, or raise max_steps"
            )
        return self


class FitConfig(Tracked, _Fit):
    """The options that all training runs have; each section is described beside what it configures."""


def differing(schema: type[FitConfig], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run that differ from the defaults of its pipeline, which is named first."""
    return {"pipeline": options["pipeline"], **changed(schema, options)}


def run_options(run: Path) -> dict[str, Any]:
    """The options in a run's `config.yaml`, unchecked; `pipeline` says which schema checks them.

    Raises `UserError` if `run` is not the folder of a run.
    """
    file = run / "config.yaml"
    if not file.is_file():
        raise UserError(f"{run}: holds no config.yaml; give the folder of a run{near_paths(run)}")
    options = read_options(file)
    if not isinstance(options.get("pipeline"), str):
        raise UserError(f"{file}: does not name its pipeline; add a line such as `pipeline: critic`")
    return options


@dataclass(frozen=True)
class Parts:
    """What a method brings: what learns, from what, towards what, and how its model is written.

    model       as it is trained: on its device, and sharded over ranks
    whole       gathers it to be written; `runtime.sharding.placed` gives it
    groups      parameters that are trained, with their learning rates
    validation  batches that are looked at and not learned from; may be empty
    save_model  writes the gathered model as the `model` folder of a checkpoint
    inputs      checksums of what the run is a function of beside its options
    facts       what else `run.json` says of the run
    """

    model: nn.Module
    whole: WholeModel
    groups: Sequence[Group]
    objective: Objective
    stream: BatchStream
    validation: Sequence[Batch]
    save_model: SaveModel
    inputs: Inputs
    facts: Mapping[str, Any] = field(default_factory=dict)


def finished(config: FitConfig) -> Path | None:
    """The run's folder if it has been trained to its last step, else None.

    Raises `UserError` if the folder holds a run of another configuration.
    """
    run = config.run.root / config.run.name
    if not holds_run(run, config):
        return None
    newest = checkpoints_in(run / "checkpoints")[-1:]
    return run if newest and step_of(newest[0]) == config.training.max_steps else None


def fit(config: FitConfig, parts: Parts) -> Path | None:
    """Train (or resume training); returns the run's folder, None if it was stopped.

    Raises `UserError` if the folder holds a run of another configuration or of other inputs, and if ranks cannot
    share a step.
    """
    _check_ranks(config.training)
    run = RunDirectory(config.run.root / config.run.name, config)
    state = initial_state(config, parts)
    keep, best = config.training.save_total_limit, _best(config, parts)
    uploads = _uploads(config, run)
    saved = uploads.start if uploads is not None else (lambda: None)
    in_background = config.training.save_in_background
    checkpoints = Checkpoints(run.checkpoints, parts.whole, parts.save_model, keep, best, saved, in_background)
    samples = {"samples": parts.stream.store.rows_checksum(), "frozen weights": _frozen(parts.model)}
    inputs = {**parts.inputs, **samples}
    if checkpoints.resume(state):
        check_inputs(run, inputs, state.step, config.run.accept_changes)
        console.print(f"{run.path}: resuming from step {state.step}")
    else:
        remember_inputs(run, inputs)
        by_first_rank(lambda: run.remember(**parts.facts))
    stream = parts.stream
    console.print(
        f"{run.path}: {len(stream.together)} samples, {stream.steps_per_epoch()} steps per epoch, "
        f"{stream.padding_share():.1%} padding",
        highlight=False,
    )
    with Tracker(run, config, state.step) as tracker, uploads or nullcontext():
        updates = updates_of(config, parts, run.path, state)
        trainer = Trainer(updates, parts.validation, config.training, tracker, checkpoints)
        if not trainer.run():
            return None
        if is_first():
            options = differing(type(config), config.model_dump(mode="json"))
            tracker.artifact(write_run_page(run.path, options, run.path / PAGE))
        return run.path


def updates_of(config: FitConfig, parts: Parts, run: Path, state: TrainState | None = None) -> Updates:
    """The optimizer steps of a run, from its beginning where no state is given."""
    device = pick_device(config.runtime)
    return Updates(
        state=state or initial_state(config, parts),
        objective=parts.objective,
        stream=parts.stream,
        optim=config.optim,
        max_steps=config.training.max_steps,
        device=device,
        forward_context=partial(autocast, device, config.runtime),
        seed=config.run.seed,
        reports=run,
        reduce_every_microbatch=config.runtime.reduce_every_microbatch,
    )


def initial_state(config: FitConfig, parts: Parts) -> TrainState:
    """Before the first step."""
    return TrainState(parts.model, build_optimizer(parts.groups, config.optim), parts.objective.initial_state())


def _frozen(model: nn.Module) -> str:
    """The fingerprint of what is not trained, which no checkpoint's state holds; all ranks must call it."""
    return fingerprint((name, whole_tensor(p.detach())) for name, p in model.named_parameters() if not p.requires_grad)


def _best(config: FitConfig, parts: Parts) -> Best | None:
    """The metric that decides which checkpoint is best. Raises `UserError` if nothing is validated."""
    metric = config.training.best_metric
    if metric is not None and not parts.validation:
        raise UserError(f"training.best_metric={metric}: the dataset has no validation split; leave the option out")
    return Best(metric, config.training.best_mode) if metric is not None else None


def _uploads(config: FitConfig, run: RunDirectory) -> Uploads | None:
    """What copies the checkpoints elsewhere, on the first rank. Raises `UserError` as `Uploads`."""
    target = config.training.upload_to
    return Uploads(run.path, f"{target.rstrip('/')}/{config.run.name}") if target is not None and is_first() else None


def _check_ranks(training: TrainingConfig) -> None:
    if training.save_in_background and ranks() == 1:
        raise UserError("training.save_in_background=true has no effect with 1 rank: leave it out")
    accumulation = training.gradient_accumulation
    if accumulation % ranks():
        raise UserError(
            f"training.gradient_accumulation={accumulation} microbatches of a step cannot be shared evenly by "
            f"{ranks()} ranks: set it to a multiple of {ranks()}, or start another number of ranks"
        )


def saving(config: FitConfig, tokenizer: PreTrainedTokenizerBase, source: str, whole: Callable[..., None]) -> SaveModel:
    """How the gathered model is written: by `whole`, or only its adapters, which remember what they were applied to.

    source  of the model that is trained, as `load_base` takes it
    whole   (model, tokenizer, directory)
    """

    def save(model: PreTrainedModel, directory: Path) -> None:
        if config.training.save_lora_only:
            save_adapters(model, tokenizer, adapter_base(source), directory)
        else:
            whole(model, tokenizer, directory)

    return save
