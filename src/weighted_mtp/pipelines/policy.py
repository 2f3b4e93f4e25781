"""What every policy pipeline is assembled from: configuration, model, data, trainer."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from weighted_mtp.config import Section
from weighted_mtp.data.batches import Batch, TokenStore, collate, plan_epoch
from weighted_mtp.data.load import DataConfig, load_stores
from weighted_mtp.data.prepare import prepare_embedded
from weighted_mtp.data.stream import BatchStream
from weighted_mtp.losses.mtp import LossConfig
from weighted_mtp.losses.objective import Objective
from weighted_mtp.models.build import ModelConfig, build_policy, save_policy
from weighted_mtp.models.mtp import MTPForCausalLM
from weighted_mtp.progress import console
from weighted_mtp.runtime.device import RuntimeConfig, autocast, pick_device
from weighted_mtp.training.loop import Trainer, TrainingConfig
from weighted_mtp.training.optim import Group, OptimConfig, build_optimizer
from weighted_mtp.training.state import Checkpoints, TrainState, checkpoints_in
from weighted_mtp.training.tracking import MLflowConfig, RunDirectory, Tracker


class RunConfig(Section):
    """What the run is called, and where its folder lies: `<root>/<name>`."""

    name: str
    root: Path = Path("storage/runs")
    seed: int = Field(0, ge=0)


class PolicyConfig(Section):
    """All options of a policy run; each section is described beside what it configures."""

    run: RunConfig
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    training: TrainingConfig = TrainingConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    mlflow: MLflowConfig = MLflowConfig()


def train_policy(config: PolicyConfig, objective: Objective) -> Path | None:
    """Train (or go on training) the policy that `config` describes; returns the run's folder, None where stopped."""
    device = pick_device(config.runtime)
    prepare_embedded(config.data.dataset, config.data.root)
    model, tokenizer = build_policy(config.model, config.run.seed)
    training, validation = load_stores(config.data, tokenizer)
    run = RunDirectory(config.run.root / config.run.name, config)
    model.to(device)  # type: ignore[arg-type]  # transformers annotates `to` wrongly
    state = TrainState(model, build_optimizer(_groups(model, config), config.optim), objective.initial_state())
    _resume(state, run)
    stream = BatchStream(
        training,
        config.data.max_tokens,
        config.training.gradient_accumulation,
        config.run.seed,
        pad_id=_pad_id(tokenizer),
    )
    console.print(
        f"{run.path}: {len(training)} samples, {stream.steps_per_epoch()} steps an epoch, "
        f"{stream.padding_share():.1%} padding",
        highlight=False,
    )
    with Tracker(run, config.mlflow, state.step) as tracker:
        trainer = Trainer(
            state=state,
            objective=objective,
            stream=stream,
            validation=_validation_batches(validation, config, _pad_id(tokenizer)),
            config=config.training,
            optim=config.optim,
            device=device,
            forward_context=partial(autocast, device, config.runtime),
            tracker=tracker,
            checkpoints=Checkpoints(
                run.checkpoints, partial(save_policy, model, tokenizer), config.training.save_total_limit
            ),
            seed=config.run.seed,
        )
        return run.path if trainer.run() else None


def _groups(model: MTPForCausalLM, config: PolicyConfig) -> Sequence[Group]:
    heads_lr = config.model.heads_lr if config.model.heads_lr is not None else config.optim.lr
    return [
        Group("trunk", model.trunk_parameters(), config.optim.lr, config.model.head_warmup_steps),
        Group("heads", model.head_parameters(), heads_lr),
    ]


def _resume(state: TrainState, run: RunDirectory) -> None:
    """Go on from the newest checkpoint, if there is one."""
    found = checkpoints_in(run.checkpoints)
    if found:
        state.load(found[-1] / "state")
        console.print(f"{run.path}: going on from step {state.step}")


def _validation_batches(store: TokenStore | None, config: PolicyConfig, pad_id: int) -> list[Batch]:
    if store is None:
        return []
    plan = plan_epoch(store.lengths, config.data.max_tokens, seed=0, epoch=0)
    return [collate(store, rows, pad_id) for rows in plan[: config.training.validation_batches]]


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Any token does: padding is masked, and its content never matters."""
    return 0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
