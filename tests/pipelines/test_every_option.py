"""A walk over all options of all sections: each changes what it is named for, or is refused by name.

Options are found in the sections themselves, so a new one joins by being there, and fails until EFFECTS says of it what
a changed value changes.
"""

import datetime
import sys
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from completions_server import CompletionsServer
from observations import Bench

from weighted_mtp.pipelines.config import COMMANDS
from weighted_mtp.pipelines.kinds import PIPELINES
from weighted_mtp.runtime import distributed
from weighted_mtp.runtime.config import RuntimeConfig
from weighted_mtp.section import Section, sections_in
from weighted_mtp.study.config import StudyConfig

ROOTS = (*(pipeline.schema for pipeline in PIPELINES.values()), *COMMANDS.values(), StudyConfig)
RECORDS = {"Origin", "Execution", "Speed", "_Described"}
"""Sections that say what was, and offer no options."""


@dataclass(frozen=True)
class Effect:
    """What an option changes.

    kind     a pipeline, `evaluate` or `study`: see `Bench.observed`
    changed  the option with a value that is not the default
    differs  the observation that is another one then; `error` for a refusal, which names `names`
    given    other options, with and without the change
    """

    kind: str
    changed: str
    differs: str
    given: tuple[str, ...] = ()
    names: str = ""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with pytest.MonkeyPatch.context() as patch, CompletionsServer() as server:
        yield Bench(tmp_path_factory.mktemp("bench"), server, patch)


def sections() -> list[type[Section]]:
    """All that can be reached from what a command reads."""
    found: list[type[Section]] = []

    def walk(section: type[Section]) -> None:
        if section not in found:
            found.append(section)
            for field in section.model_fields.values():
                for inner in sections_in(field.annotation):
                    walk(typing.cast(type[Section], inner))

    for root in ROOTS:
        walk(root)
    return found


def options() -> list[str]:
    """`Section.option` of each, by the section that declares it, which several may share.

    A section within a section is no option itself, unless it may be another or be left out; nor is what a union of
    sections is told apart by.
    """
    names = {}
    for section in sections():
        for name, field in section.model_fields.items():
            is_section = isinstance(field.annotation, type) and issubclass(field.annotation, Section)
            is_tag = (
                typing.get_origin(field.annotation) is typing.Literal and len(typing.get_args(field.annotation)) == 1
            )
            if not is_section and not is_tag:
                owner = next(
                    base for base in reversed(section.__mro__) if name in vars(base).get("__annotations__", {})
                )
                names[f"{owner.__name__}.{name}"] = None
    return list(names)


POLICY, CRITIC, STUDY = "baseline", "critic", "study"
MICRO = ("model.source=micro",)
LORA = ("model.lora.r=4",)
CHECKED = ("training.save_every=1", "training.validate_every=1")
DATED = ("model.source=@/dated", "data.template=chat")
TRACKED = ("tracking=mlflow", "mlflow.tracking_uri=sqlite:///@/mlflow.db")
SERVED = ("server={}",)
DRAWN = ("sampling.temperature=1",)
SCORED = ('samples="@/one.jsonl"',)
RANKING = ("critic.objective=pairwise_ranking",)
LAMBDA = ("critic.objective=lambda_return", "value.head=sigmoid")
MORE, A_SERVER = "{pipeline: evaluation", "{base_url: http://a/v1}"
ANNEALED = "critic={{objective: lambda_return, lam_start: 1.0, lam_steps: {}, lam: 0.0}}".format
BINS = "data.sampling={{difficulty_bins: [2], bin_weights: {}}}".format

EFFECTS: dict[str, Effect | list[Effect]] = {
    "PolicyConfig.control": Effect("verifiable", "control=shuffled", "loss"),
    "PolicyConfig.control_of": Effect(
        "verifiable", "control_of=product", "loss", ("control=shuffled", "loss.confidence=each_head")
    ),
    "RunConfig.name": Effect(POLICY, "run.name=renamed", "folder"),
    "RunConfig.root": Effect(POLICY, "run.root=@/elsewhere", "folder"),
    "RunConfig.seed": Effect(POLICY, "run.seed=1", "loss"),
    "OptimConfig.lr": Effect(POLICY, "optim.lr=2e-2", "lr"),
    "OptimConfig.weight_decay": Effect(POLICY, "optim.weight_decay=0", "weights"),
    "OptimConfig.betas": Effect(POLICY, "optim.betas=[0.5,0.5]", "weights"),
    "OptimConfig.eps": Effect(POLICY, "optim.eps=1e-2", "weights"),
    "OptimConfig.warmup_steps": Effect(POLICY, "optim.warmup_steps=2", "lr"),
    "OptimConfig.final_lr_ratio": Effect(POLICY, "optim.final_lr_ratio=0.5", "lr"),
    "OptimConfig.max_grad_norm": Effect(POLICY, "optim.max_grad_norm=1e-4", "weights"),
    "TrainingConfig.max_steps": Effect(POLICY, "training.max_steps=4", "checkpoints"),
    "TrainingConfig.gradient_accumulation": Effect(POLICY, "training.gradient_accumulation=2", "response_tokens"),
    "TrainingConfig.validate_every": Effect(POLICY, "training.validate_every=2", "validated"),
    "TrainingConfig.validation_batches": Effect(POLICY, "training.validation_batches=2", "validation"),
    "TrainingConfig.save_every": Effect(POLICY, "training.save_every=2", "checkpoints"),
    "TrainingConfig.save_total_limit": Effect(POLICY, "training.save_total_limit=1", "checkpoints", CHECKED),
    "TrainingConfig.save_lora_only": Effect(POLICY, "training.save_lora_only=true", "files", LORA),
    "TrainingConfig.save_in_background": Effect(
        POLICY, "training.save_in_background=true", "error", names="save_in_background=true has no effect with 1 rank"
    ),
    "TrainingConfig.upload_to": Effect(POLICY, "training.upload_to=file://@/copies", "copies"),
    "TrainingConfig.best_metric": Effect(POLICY, "training.best_metric=loss", "best"),
    "TrainingConfig.best_mode": Effect(
        POLICY, "training.best_mode=max", "best", (*CHECKED, "training.best_metric=loss")
    ),
    "TrainingConfig.log_every": Effect(POLICY, "training.log_every=2", "step"),
    "RuntimeConfig.device": Effect(POLICY, "runtime.device=cuda", "error", names="runtime.device is cuda")
    if not torch.cuda.is_available()
    else Effect(POLICY, "runtime.device=cpu", "weights"),
    "RuntimeConfig.activation_checkpointing": [
        Effect(POLICY, f"runtime.activation_checkpointing={which}", "recomputed") for which in ("true", "selective")
    ],
    "RuntimeConfig.compile": Effect(POLICY, "runtime.compile=true", "compiled"),
    "RuntimeConfig.precision": Effect(POLICY, "runtime.precision=bf16", "loss"),
    "RuntimeConfig.threads": Effect(POLICY, "runtime.threads=2", "threads"),
    "RuntimeConfig.cpu_offload": Effect(POLICY, "runtime.cpu_offload=true", "error", names="runtime.cpu_offload=true"),
    "RuntimeConfig.reduce_every_microbatch": Effect(
        POLICY, "runtime.reduce_every_microbatch=true", "reduced", ("training.gradient_accumulation=2",)
    ),
    "Tracked.tracking": Effect(POLICY, "tracking=mlflow", "tracked", TRACKED[1:]),
    "MLflowConfig.tracking_uri": Effect(POLICY, "mlflow.tracking_uri=sqlite:///@/other.db", "tracked", TRACKED),
    "MLflowConfig.experiment": Effect(POLICY, "mlflow.experiment=other", "tracked", TRACKED),
    "ModelConfig.source": Effect(POLICY, "model.source=micro", "loss"),
    "ModelConfig.n_future_tokens": Effect(
        POLICY, "model.n_future_tokens=2", "weights", (*MICRO, "loss.head_coefficients=null")
    ),
    "ModelConfig.head_init": Effect(POLICY, "model.head_init=random", "loss", ("model.source=@/runs/reference",)),
    "ModelConfig.heads_lr": Effect(POLICY, "model.heads_lr=0.1", "lr/heads"),
    "ModelConfig.heads_only": Effect(POLICY, "model.heads_only=true", "grad_norm", ("loss.detach_extra_heads=false",)),
    "ModelConfig.head_warmup_steps": Effect(POLICY, "model.head_warmup_steps=2", "lr"),
    "ModelConfig.lora": Effect(POLICY, "model.lora={}", "grad_norm"),
    "ModelConfig.micro_tokenizer": Effect(POLICY, "model.micro_tokenizer=@/foreign/micro/tokenizer", "loss", MICRO),
    "LoraSettings.r": Effect(POLICY, "model.lora.r=2", "grad_norm", LORA),
    "LoraSettings.alpha": Effect(POLICY, "model.lora.alpha=4", "grad_norm", LORA),
    "LoraSettings.dropout": Effect(POLICY, "model.lora.dropout=0.5", "grad_norm", LORA),
    "LoraSettings.target_modules": Effect(POLICY, "model.lora.target_modules=[q_proj]", "grad_norm", LORA),
    "LoraSettings.full_heads": Effect(POLICY, "model.lora.full_heads=true", "grad_norm", LORA),
    "MicroSize.hidden_size": Effect(POLICY, "model.micro.hidden_size=32", "loss", MICRO),
    "MicroSize.intermediate_size": Effect(POLICY, "model.micro.intermediate_size=64", "loss", MICRO),
    "MicroSize.num_hidden_layers": Effect(POLICY, "model.micro.num_hidden_layers=3", "loss", MICRO),
    "MicroSize.num_attention_heads": Effect(POLICY, "model.micro.num_attention_heads=1", "loss", MICRO),
    "MicroSize.max_position_embeddings": Effect(POLICY, "model.micro.max_position_embeddings=300", "config", MICRO),
    "SplitsConfig.root": Effect(POLICY, "data.root=@/others", "loss"),
    "SplitsConfig.dataset": Effect(POLICY, "data.dataset=[micro,second]", "epoch"),
    "SplitsConfig.train": Effect(POLICY, "data.train=validation", "loss"),
    "SplitsConfig.validation": Effect(POLICY, "data.validation=null", "validated"),
    "SplitsConfig.template": Effect(POLICY, "data.template=alpaca", "loss"),
    "SplitsConfig.date": Effect(POLICY, "data.date=2020-02-02", "loss", DATED),
    "SplitsConfig.tokens": Effect(POLICY, "data.tokens=@/copies/tokens", "copies"),
    "DataConfig.max_length": Effect(POLICY, "data.max_length=60", "inputs"),
    "DataConfig.too_long": Effect(POLICY, "data.too_long=error", "error", ("data.max_length=60",), "too_long"),
    "DataConfig.max_tokens": Effect(POLICY, "data.max_tokens=256", "loss"),
    "DataConfig.sampling": Effect(POLICY, "data.sampling={portion: [0, 0.5]}", "inputs"),
    "ProblemMix.portion": [
        Effect(POLICY, "data.sampling.portion=[0,0.5]", "inputs", ("data.sampling.labels=correct",)),
        Effect(CRITIC, "data.pairs.portion=[0,0.5]", "inputs"),
    ],
    "ProblemMix.difficulty_bins": [
        Effect(POLICY, "data.sampling={difficulty_bins: [3], bin_weights: [0,1,0]}", "inputs", (BINS("[0,1,0]"),)),
        Effect(CRITIC, "data.pairs={difficulty_bins: [3], bin_weights: [0,1,0]}", "inputs"),
    ],
    "ProblemMix.bin_weights": Effect(POLICY, BINS("[0,0,1]"), "inputs", (BINS("[0,1,1]"),)),
    "SampleConfig.labels": Effect(POLICY, "data.sampling.labels=all", "inputs", ("data.sampling.portion=[0,1]",)),
    "SampleConfig.n_samples": Effect(POLICY, "data.sampling.n_samples=9", "inputs", ("data.sampling.portion=[0,1]",)),
    "SampleConfig.max_per_problem": Effect(
        POLICY, "data.sampling.max_per_problem=1", "inputs", ("data.sampling.portion=[0,1]",)
    ),
    "PairDataConfig.max_length": Effect(CRITIC, "data.max_length=60", "inputs"),
    "PairDataConfig.max_tokens": Effect(CRITIC, "data.max_tokens=400", "loss"),
    "PairConfig.n_pairs": Effect(CRITIC, "data.pairs.n_pairs=5", "inputs"),
    "PairConfig.max_pairs_per_problem": Effect(CRITIC, "data.pairs.max_pairs_per_problem=1", "inputs"),
    "PairConfig.length_balanced": Effect(CRITIC, "data.pairs.length_balanced=false", "inputs"),
    "PairConfig.length_ratio": Effect(CRITIC, "data.pairs.length_ratio=2", "inputs"),
    "LossConfig.normalization": Effect("verifiable", "loss.normalization=tokens", "loss"),
    "LossConfig.alignment": Effect("verifiable", "loss.alignment=source", "loss"),
    "LossConfig.confidence": Effect(POLICY, "loss.confidence=each_head", "loss"),
    "LossConfig.confidence_power": Effect(POLICY, "loss.confidence_power=2", "loss", ("loss.confidence=each_head",)),
    "LossConfig.head_coefficients": Effect(POLICY, "loss.head_coefficients=null", "loss"),
    "LossConfig.detach_extra_heads": Effect(POLICY, "loss.detach_extra_heads=false", "grad_norm"),
    "CriticConfig.critic": Effect(CRITIC, "critic.objective=outcome", "loss"),
    "ValueConfig.source": Effect(CRITIC, "value.source=@/runs/reference2", "loss"),
    "ValueConfig.head": Effect(CRITIC, "value.head=linear", "loss", ("critic.objective=outcome",)),
    "ValueConfig.base_rate": Effect(CRITIC, "value.base_rate=0.3", "loss", ("critic.objective=outcome",)),
    "ValueConfig.backbone": Effect(CRITIC, "value.backbone=lora", "grad_norm"),
    "ValueConfig.last_layers": Effect(CRITIC, "value.last_layers=1", "grad_norm"),
    "ValueConfig.lora": Effect(CRITIC, "value.lora={r: 2}", "grad_norm", ("value.backbone=lora",)),
    "ValueConfig.head_lr": Effect(CRITIC, "value.head_lr=0.1", "lr/value_head", ("critic.objective=outcome",)),
    "PairwiseRankingConfig.pooling": Effect(CRITIC, "critic.pooling=last", "loss", RANKING),
    "PairwiseRankingConfig.margin": Effect(CRITIC, "critic.margin=0.5", "loss", RANKING),
    "LambdaReturnConfig.gamma": Effect(CRITIC, "critic.gamma=0.9", "loss", LAMBDA),
    "LambdaReturnConfig.lam": Effect(CRITIC, "critic.lam=0", "loss", LAMBDA),
    "LambdaReturnConfig.lam_start": Effect(CRITIC, ANNEALED(2), "loss", ("critic={objective: lambda_return, lam: 0}",)),
    "LambdaReturnConfig.lam_steps": Effect(CRITIC, ANNEALED(2), "loss", (ANNEALED(1),)),
    "LambdaReturnConfig.huber_delta": Effect(CRITIC, "critic.huber_delta=0.1", "loss", LAMBDA),
    "ImplicitConfig.beta": Effect(CRITIC, "critic.beta=1", "loss"),
    "ImplicitConfig.form": Effect(CRITIC, "critic.form=absolute", "loss"),
    "ImplicitConfig.anchor": Effect(CRITIC, "critic.anchor=0", "loss"),
    "VerifiableConfig.critic": Effect("verifiable", "critic=@/runs/other", "loss"),
    "TDConfig.gamma": Effect("verifiable", "weighting.gamma=0.9", "loss"),
    "TDConfig.lam": Effect("verifiable", "weighting.lam=0", "loss"),
    "TDConfig.centre": Effect("verifiable", "weighting.centre=program", "loss"),
    "TDConfig.beta": Effect("verifiable", "weighting.beta=0.5", "loss"),
    "TDConfig.w_min": Effect("verifiable", "weighting.w_min=0.9", "loss"),
    "TDConfig.w_max": Effect("verifiable", "weighting.w_max=1.1", "loss"),
    "TDConfig.momentum": Effect("verifiable", "weighting.momentum=1", "loss", ("weighting.warmup_steps=1",)),
    "TDConfig.warmup_steps": Effect("verifiable", "weighting.warmup_steps=1", "loss"),
    "TDConfig.space": Effect("verifiable", "weighting.space=probability", "loss"),
    "TDConfig.terminal_reward": Effect(
        "verifiable", "weighting.terminal_reward=1", "loss", ("weighting.space=probability",)
    ),
    "TDConfig.strength": Effect("verifiable", "weighting.strength=0.5", "loss"),
    "TDConfig.anneal_steps": Effect("verifiable", "weighting.anneal_steps=2", "loss"),
    "TDConfig.head_strengths": Effect("verifiable", "weighting.head_strengths=[1,0,0,0]", "loss"),
    "Rho1RunConfig.reference": Effect("rho1", "reference=@/runs/reference2", "loss"),
    "Rho1Config.mode": Effect("rho1", "rho1.mode=difficult", "loss"),
    "Rho1Config.k_percent": Effect("rho1", "rho1.k_percent=20", "loss"),
    "Rho1Config.selection": Effect("rho1", "rho1.selection=first_head", "loss"),
    "ThirdPartyConfig.token_weighting": Effect("third_party", "token_weighting=b", "loss"),
    "ThirdPartyConfig.options": Effect("third_party", "options.scale=2.0", "loss", ("token_weighting=b",)),
    "EvaluationConfig.benchmark": Effect("evaluate", 'benchmark="nobody"', "error", names="nobody"),
    "EvaluationConfig.output": Effect("evaluate", 'output="@/evaluations/named"', "output"),
    "SampledModel.checkpoint": Effect("evaluate", 'checkpoint="@/runs/reference2"', "texts", DRAWN),
    "SampledModel.engine": Effect("evaluate", 'engine="vllm"', "error", names="--engine vllm"),
    "SampledModel.vllm_args": Effect("evaluate", 'vllm_args=["a=1"]', "error", names="--vllm-args"),
    "SampledModel.server": Effect("evaluate", "server={}", "texts"),
    "ServerConfig.base_url": Effect("evaluate", 'server.base_url="http://b/v1"', "error", SERVED, "--base-url"),
    "ServerConfig.model": Effect("evaluate", 'server.model="other"', "served", SERVED),
    "ServerConfig.api_key_env": Effect("evaluate", 'server.api_key_env="NO_SUCH"', "error", SERVED, "--api-key-env"),
    "ServerConfig.tokenizer": Effect("evaluate", 'server.tokenizer="@/dated"', "paths", SERVED),
    "ServerConfig.request_timeout": Effect("evaluate", "server.request_timeout=0.05", "error", SERVED, "-timeout"),
    "EvaluationConfig.samples": Effect("evaluate", SCORED[0], "texts", ("first=1",)),
    "EvaluationConfig.partial": Effect("evaluate", "partial=true", "tasks", SCORED),
    "EvaluationConfig.data_root": Effect("evaluate", 'data_root="@/others"', "problems"),
    "EvaluationConfig.split": Effect("evaluate", 'split="validation"', "problems"),
    "EvaluationConfig.first": Effect("evaluate", "first=1", "tasks"),
    "SampledModel.template": Effect("evaluate", 'template="alpaca"', "texts", DRAWN),
    "SampledModel.date": Effect("evaluate", 'date="2020-02-02"', "day", ('checkpoint="@/dated"', 'template="chat"')),
    "SampledModel.dtype": Effect("evaluate", 'dtype="bfloat16"', "dtype"),
    "EvaluationConfig.k": Effect("evaluate", "k=[2]", "k", (*DRAWN, "sampling.n_samples=2")),
    "EvaluationConfig.workers": Effect("evaluate", "workers=7", "facts"),
    "EvaluationConfig.cpu_seconds": Effect("evaluate", "cpu_seconds=1.5", "execution"),
    "EvaluationConfig.memory_mb": Effect("evaluate", "memory_mb=300", "execution"),
    "EvaluationConfig.time_factor": Effect("evaluate", "time_factor=2", "execution"),
    "EvaluationConfig.packages": Effect("evaluate", 'packages=["numpy"]', "execution"),
    "EvaluationConfig.unsafe_execution": Effect("evaluate", "unsafe_execution=true", "execution"),
    "SamplingConfig.max_new_tokens": Effect("evaluate", "sampling.max_new_tokens=4", "texts"),
    "SamplingConfig.temperature": Effect("evaluate", "sampling.temperature=1", "texts"),
    "SamplingConfig.top_p": Effect("evaluate", "sampling.top_p=0.01", "texts", DRAWN),
    "SamplingConfig.n_samples": Effect("evaluate", "sampling.n_samples=2", "tasks", DRAWN),
    "SamplingConfig.batch_size": Effect("evaluate", "sampling.batch_size=1", "facts"),
    "SamplingConfig.draft": Effect("evaluate", 'sampling.draft="heads"', "drafted"),
    "SamplingConfig.seed": Effect("evaluate", "sampling.seed=1", "texts", DRAWN),
    "SamplingConfig.stop": Effect("evaluate", 'sampling.stop=["e", "a", "n", " "]', "texts", DRAWN),
    "GenerateConfig.prompt": Effect("generate", 'prompt="def f(x):"', "prompts"),
    "GenerateConfig.file": Effect("generate", 'file="@/one.txt"', "prompts", ("prompt=null",)),
    "GenerateConfig.show_drafts": Effect("generate", "show_drafts=true", "error", names="no effect with --output"),
    "GenerateConfig.output": Effect("generate", 'output="@/other.jsonl"', "output"),
    "StudyConfig.name": Effect(STUDY, "name=other", "places"),
    "StudyConfig.storage": Effect(STUDY, "storage=elsewhere", "places"),
    "StudyConfig.seeds": Effect(STUDY, "seeds=[0,1]", "places"),
    "StudyConfig.override": Effect(STUDY, "override.optim.lr=0.5", "options"),
    "StudyConfig.stages": Effect(STUDY, "stages.more={pipeline: ref_tuning, config: ref_tuning_local.yaml}", "places"),
    "StudyConfig.arms": Effect(STUDY, "arms.more={pipeline: baseline, config: baseline_local.yaml}", "places"),
    "StudyConfig.benchmark": Effect(STUDY, "benchmark=mbpp", "evaluations"),
    "StudyConfig.split": Effect(STUDY, "split=validation", "evaluations"),
    "StudyConfig.first": Effect(STUDY, "first=3", "evaluations"),
    "StudyConfig.packages": Effect(STUDY, "packages=[numpy]", "evaluations"),
    "StudyConfig.k": Effect(STUDY, "k=[2]", "error", names="k=(2,) needs sampling.n_samples=2"),
    "StudyConfig.further_temperatures": Effect(STUDY, "further_temperatures=[0.5]", "evaluations"),
    "Training.pipeline": Effect(STUDY, "arms.uniform.pipeline=ref_tuning", "pipelines"),
    "Training.config": Effect(STUDY, "arms.uniform.config=smollm2_mbpp.yaml", "options"),
    "Training.override": Effect(STUDY, "arms.uniform.override.optim.lr=0.5", "options"),
    "StudyConfig.dtype": Effect(STUDY, "dtype=bfloat16", "evaluations"),
    "StudyConfig.engine": Effect(STUDY, "engine=vllm", "evaluations"),
    "StudyConfig.vllm_args": Effect(STUDY, "vllm_args=[a=1]", "evaluations", ("engine=vllm",)),
    "_Sampled.server": Effect(
        STUDY, "arms.more.server.base_url=http://b/v1", "evaluations", (f"arms.more={MORE}, server: {A_SERVER}}}",)
    ),
    "_Sampled.checkpoint": Effect(
        STUDY, "arms.more.checkpoint=other", "evaluations", ("arms.more={pipeline: evaluation, checkpoint: x}",)
    ),
    "TrainingStage.per_seed": Effect(STUDY, "stages.critic.per_seed=true", "places"),
    "OwnPrograms.benchmark": Effect(STUDY, "stages.own.benchmark=mbpp", "evaluations"),
    "OwnPrograms.first": Effect(STUDY, "stages.own.first=3", "evaluations"),
    "OwnPrograms.n_samples": Effect(STUDY, "stages.own.n_samples=3", "evaluations"),
    "OwnPrograms.temperature": Effect(STUDY, "stages.own.temperature=0.5", "evaluations"),
    "OwnPrograms.seed": Effect(STUDY, "stages.own.seed=3", "evaluations"),
    "OwnPrograms.keep_solutions": Effect(STUDY, "stages.own.keep_solutions=true", "labelled"),
    "OwnPrograms.per_seed": Effect(STUDY, "stages.own.per_seed=true", "places"),
    "Compared.against": Effect(STUDY, "arms.weighted.against=nobody", "error", names="arms.weighted.against=nobody"),
}

ELSEWHERE = {
    "examples/test_examples.py": {
        "the_table_has_ids_tokens_weights_and_delta": "WeightsConfig.format",
    },
    "pipelines/test_gate.py": {
        "what_is_predicted_is_said_and_kept_and_changes_nothing": "VerifiableConfig.gate GateConfig.programs",
        "pilots_take_the_steps_that_they_are_given": "GateConfig.steps",
    },
    "pipelines/test_frozen_cache.py": {
        "a_run_of_several_epochs_computes": "VerifiableConfig.frozen_cache Rho1RunConfig.frozen_cache"
        " FrozenCacheConfig.file",
        "the_file_keeps_its_bound_and_the_newest_values": "FrozenCacheConfig.max_gb",
    },
    "unit/training/test_tracking.py": {
        "runs_of_a_study_lie_below_one_run": "MLflowConfig.study",
        "weights_and_biases_gets_what_the_file_has": "WandbConfig.project WandbConfig.mode",
    },
    "pipelines/test_resume.py": {
        "a_resume_from_something_else_is_refused_by_name_or": "RunConfig.accept_changes",
    },
    "distributed/test_memory.py": {
        "the_planned_peak_is_the_measured_one": "RuntimeConfig.parallel",
    },
    "pipelines/test_every_option.py": {
        "ranks_wait_as_long_as_they_are_told": "RuntimeConfig.timeout_seconds",
    },
    "pipelines/test_setup_datasets.py": {
        "several_datasets_are_compared_with_each_others_evaluation_splits": "DatasetsConfig.datasets",
        "evaluation_splits_alone_fetch_no_training_file": "DatasetsConfig.steps",
        "the_hub_and_a_folder_give_the_same_dataset": "DatasetsConfig.source",
        "the_index_holds_lengths_in_a_tokenizers_tokens": "DatasetsConfig.tokenizer",
        "no_more_solutions_are_executed_than_asked_for": "DatasetsConfig.tests_per_split",
        "all_steps_leave_a_dataset_that_its_manifest_describes": "DatasetsConfig.storage",
    },
    "pipelines/test_own_data.py": {
        "known_correct_programs_pass_and_known_incorrect_ones_do_not": "DatasetsConfig.imported DatasetsConfig.name",
    },
    "unit/data/preparation/test_shards.py": {
        "the_number_of_workers_changes_no_byte": "DatasetsConfig.workers",
    },
    "unit/data/preparation/test_prepare.py": {
        "a_dataset_of_which_nothing_is_left_is_refused": "Options.languages",
        "the_first_problems_of_each_split_may_be_enough": "Options.max_problems",
        "every_row_and_solution_is_kept_or_counted": "Options.max_solution_characters",
        "overlaps_may_be_kept_but_are_reported": "Options.keep_contaminated",
    },
    "unit/data/preparation/test_stats.py": {
        "a_slice_is_a_subset_in_order_with_few_solutions": "SliceOptions.max_problems SliceOptions.max_solutions",
        "a_slice_is_a_function_of_its_seed_and_made_once": "SliceOptions.seed",
    },
    "pipelines/test_label.py": {
        "critics_and_policies_learn_from_the_policys_own_programs": "LabelConfig.evaluations LabelConfig.name"
        " LabelConfig.storage",
    },
    "unit/evaluation/test_own_programs.py": {
        "a_test_split_is_refused_unless_it_stays_one": "LabelOptions.splits",
        "the_datasets_own_solutions_come_along_where_asked": "LabelOptions.keep_solutions",
        "a_program_that_was_cut_is_kept_only_where_asked": "LabelOptions.keep_unfinished",
    },
    "pipelines/test_token_weights.py": {
        "page_and_picture_are_written": "WeightsConfig.critic WeightsConfig.run WeightsConfig.data_root"
        " WeightsConfig.problems WeightsConfig.output",
        "another_dataset_and_split_are_shown_if_they_are_given": "WeightsConfig.dataset WeightsConfig.split",
    },
    "pipelines/test_setup_models.py": {
        "a_model_of_the_hub_is_downloaded": "ModelSetupConfig.model ModelSetupConfig.n_future_tokens"
        " ModelSetupConfig.storage",
        "converting_what_is_not_downloaded_says_what_to_run": "ModelSetupConfig.steps",
        "a_reference_stays_a_plain_causal_lm": "ModelSetupConfig.kind",
        "a_models_own_files_may_come_from_a_folder": "ModelSetupConfig.source",
        "a_tokenizer_for_a_model_that_has_one_is_refused": "ModelSetupConfig.tokenizer",
        "a_micro_model_is_cut_out_of_a_base": "ModelSetupConfig.create_micro ModelSetupConfig.micro_type"
        " ModelSetupConfig.micro_init",
        "random_weights_are_those_of_the_seed": "ModelSetupConfig.seed",
    },
    "pipelines/test_schedule.py": {
        "parameters_that_slurm_does_not_have_are_one_line": "StudyConfig.slurm",
    },
}
"""File → the test in it that shows the effect → options which need several runs, processes or datasets."""


SHOWN = {
    option: (file, test)
    for file, tests in ELSEWHERE.items()
    for test, shown in tests.items()
    for option in shown.split()
}


@pytest.mark.parametrize("option", options())
def test_an_option_has_its_effect_or_is_refused(bench: Bench, option: str) -> None:
    if option in SHOWN:
        file, test = SHOWN[option]
        assert f"def test_{test}" in (Path(__file__).parents[1] / file).read_text()
        return
    if option not in EFFECTS:
        pytest.fail(f"{option} is new: add to EFFECTS what a changed value changes, or which refusal names it")
    effects = EFFECTS[option]
    for effect in effects if isinstance(effects, list) else [effects]:
        before = bench.observed(effect.kind, *effect.given)
        after = bench.observed(effect.kind, *effect.given, effect.changed)
        if effect.differs == "error":
            assert effect.names in after["error"]
            assert "\n" not in after["error"]
        else:
            assert "error" not in after, after["error"]
        assert before.get(effect.differs) != after.get(effect.differs), effect


def test_what_changes_nothing_is_seen_to_change_nothing(bench: Bench) -> None:
    one, other = bench.observed(POLICY), bench.observed(POLICY, "run.name=renamed")
    assert {name for name in {**one, **other} if one.get(name) != other.get(name)} == {"folder"}


def test_ranks_wait_as_long_as_they_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Joined(Exception):
        pass

    def join(*_: object, timeout: datetime.timedelta, **__: object) -> None:
        raise Joined(timeout.total_seconds())

    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(sys.modules["torch.distributed.rendezvous"], "rendezvous", lambda _: iter([(None, 0, 2)]))
    monkeypatch.setattr(torch.distributed, "init_process_group", join)
    for config, expected in ((RuntimeConfig(), 600), (RuntimeConfig(timeout_seconds=7), 7)):
        with pytest.raises(Joined, match=str(expected)), distributed.process_group(config):
            pass


def test_the_walk_knows_no_option_that_is_not_there() -> None:
    assert (EFFECTS.keys() | SHOWN.keys()) - set(options()) == set()


def test_the_walk_reaches_every_section() -> None:
    def below(section: type) -> Iterator[type]:
        for inner in section.__subclasses__():
            yield inner
            yield from below(inner)

    reached = {base for section in sections() for base in section.__mro__}
    missing = {s.__name__ for s in below(Section) if s.__module__.startswith("weighted_mtp.") and s not in reached}
    assert missing == RECORDS
