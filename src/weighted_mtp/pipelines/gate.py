"""Whether weights will help, before training: pilots of a few steps, judged by the policy's own programs.

The programs were sampled from the policy and executed, several for each of some problems that it does not train on. One
pilot has the weights, one has none; both begin from the policy and see the same batches. Weights are predicted to help
if they make programs that passed likelier, and those that failed less likely, than no weights do, and if they do not
make all of them less likely (`evaluation.pass_rate_change`). The prediction holds for the temperature that the programs
were sampled at, since sharpening helps at one and not at another. Its order says more than its size or its zero: a run
moves farther than a pilot, and programs that a pilot moves away to, which nobody executed, count as failures, so that
weights that help are often predicted to help little or not at all. docs/LOG.md says how often it was right.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from transformers import PreTrainedTokenizerBase

from weighted_mtp.data.batches import TokenStore, build_store, within
from weighted_mtp.data.load import SplitsConfig
from weighted_mtp.data.prompts import encode_solutions
from weighted_mtp.data.stream import BatchStream
from weighted_mtp.data.tables import read_statements
from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.own_programs import Evaluation, executed_programs, labelled_evaluations, read_evaluation
from weighted_mtp.evaluation.pass_at_k import Estimate
from weighted_mtp.evaluation.pass_rate_change import pass_rate_changes, reweighted_pass_rates
from weighted_mtp.losses.token_ce import program_log_probs
from weighted_mtp.models.mtp import MTPForCausalLM
from weighted_mtp.pipelines.fit import updates_of
from weighted_mtp.pipelines.policy import PolicyConfig, WeightingFactory, policy_parts
from weighted_mtp.progress import Advance, progress
from weighted_mtp.report.intervals import over_problems
from weighted_mtp.runtime.device import autocast, pick_device
from weighted_mtp.runtime.sharding import free_root
from weighted_mtp.section import Section
from weighted_mtp.value_weighting.base import TokenWeighting
from weighted_mtp.value_weighting.controls import Uniform


class GateConfig(Section):
    """What the prediction is made from."""

    programs: Path | None = None
    """The policy's own programs, executed: the folder of an evaluation (`wmtp evaluate --split validation --n 4
    --temperature 1`), or of a dataset of such; if not given, those of the validation split that the critic knows."""
    steps: int = Field(10, ge=1)
    """Steps of each pilot."""


@dataclass(frozen=True)
class Judges:
    """Executed programs of a policy.

    store     the programs as tokens, N
    passed    (N,)
    problems  (N,) numbers of their problems
    """

    store: TokenStore
    passed: NDArray[np.bool_]
    problems: NDArray[np.int64]
    temperature: float

    def __str__(self) -> str:
        n = len(np.unique(self.problems))
        return f"{len(self.passed)} executed programs for {n} problems at temperature {self.temperature:g}"


def evaluation_of_programs(programs: Path | None, critic_data: SplitsConfig) -> Evaluation:
    """The evaluation that the programs lie in; see `GateConfig.programs`. Raises UserError where there is none."""
    if programs is not None and not (programs / "manifest.json").is_file():
        return read_evaluation(programs)
    datasets = [programs] if programs is not None else [critic_data.root / name for name in critic_data.datasets]
    found = [e for dataset in datasets for e in labelled_evaluations(dataset) if e.split == critic_data.validation]
    if not found:
        raise UserError(
            f"gate: no executed programs of a policy are in the {critic_data.validation} split of "
            f"{', '.join(map(str, datasets))}: set gate.programs to an evaluation of the policy (`wmtp evaluate "
            "--split validation --n 4 --temperature 1`)"
        )
    return found[0]


def judges(evaluation: Evaluation, config: PolicyConfig, tokenizer: PreTrainedTokenizerBase) -> Judges:
    """The programs of an evaluation as the policy reads them: those that ended, of problems with several.

    Raises UserError for greedy programs, and where fewer than two problems have both one that passed and one that
    failed.
    """
    temperature = float(evaluation.config["sampling"]["temperature"])
    problems = read_statements(evaluation.dataset / evaluation.split)
    solutions = [program for program, ended in executed_programs(evaluation, problems) if ended]
    by_name = {solution.solution_id: solution for solution in solutions}
    number = {problem.problem_id: row for row, problem in enumerate(problems)}
    written_for = {solution.problem_id for solution in solutions}
    known = [problem for problem in problems if problem.problem_id in written_for]
    store = within(
        build_store(encode_solutions(tokenizer, config.data.template, known, solutions, config.data.date)),
        config.data.max_length,
    )
    kept = [by_name[name] for name in store.sample_ids]
    passed = np.array([solution.is_correct for solution in kept], dtype=bool)
    numbers = np.array([number[solution.problem_id] for solution in kept], dtype=np.int64)
    mixed = np.intersect1d(numbers[passed], numbers[~passed])
    if temperature == 0 or len(mixed) < 2:
        few = "tell too little: fewer than two problems have both one that passed and one that failed"
        why = "are greedy" if temperature == 0 else few
        raise UserError(
            f"gate: the programs of {evaluation.folder} {why}; sample more of each problem, `wmtp evaluate --n 4 "
            "--temperature 1`, and name that folder in gate.programs"
        )
    return Judges(store, passed, numbers, temperature)


@dataclass(frozen=True)
class PredictedGain:
    """Gain of a pilot in pass@1 over uniform weights, by both estimates of `evaluation.pass_rate_change`."""

    first_order: Estimate
    reweighted: Estimate

    @property
    def lower(self) -> Estimate:
        """The one whose interval begins lower: each is blind to a kind of harm, so both have to say that weights
        help."""
        return min(self.first_order, self.reweighted, key=lambda gain: gain.low)


def predicted_gains(
    pilots: Sequence[tuple[PolicyConfig, WeightingFactory]], steps: int, evaluation: Evaluation
) -> tuple[list[PredictedGain], Judges]:
    """Gain in pass@1 of each pilot over uniform weights within `steps`, and the programs that tell it.

    pilots  runs that begin from one policy and see the same batches

    The uniform pilot is the first without weights, confidence included. No pilot warms up its heads: all are to move.
    """
    first, _ = pilots[0]
    plain = first.loss.model_copy(update={"confidence": None, "confidence_power": 1.0})
    uniform = first.model_copy(update={"loss": plain, "control": "none", "control_of": "credit"})
    read: list[Judges] = []

    def judged_by(tokenizer: PreTrainedTokenizerBase) -> Judges:
        if not read:  # the pilots' tokenizer is one: programs are read once
            read.append(judges(evaluation, first, tokenizer))
        return read[0]

    with progress("predicting what the weights will do", steps * (1 + len(pilots))) as advance:
        baseline, judged = _piloted(uniform, lambda _policy, _tokenizer: Uniform(), steps, judged_by, advance)
        moved = [_piloted(config, weighting, steps, judged_by, advance)[0] for config, weighting in pilots]
    return [_gain(own, baseline, judged) for own in moved], judged


def _gain(moved: NDArray[np.float64], baseline: NDArray[np.float64], judged: Judges) -> PredictedGain:
    known = judged.passed, judged.problems
    rates = [reweighted_pass_rates(log_ratios, *known) for log_ratios in (moved, baseline)]
    return PredictedGain(over_problems(pass_rate_changes(moved - baseline, *known)), over_problems(rates[0] - rates[1]))


def best_strength(gains: Mapping[float, Estimate]) -> float:
    """The strength with the highest predicted gain of those whose interval is clear of zero; 0, uniform, if none is."""
    clear = {strength: gain.value for strength, gain in gains.items() if gain.sign > 0}
    return max(clear, key=lambda strength: clear[strength]) if clear else 0.0


def prediction(gain: Estimate) -> str:
    """A predicted gain in words."""
    numbers = f"gain in pass@1 {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
    if gain.sign > 0:
        return f"predicted to help, {numbers}"
    if gain.sign < 0:
        return f"PREDICTED TO HURT, {numbers}: a smaller weighting.strength, or strength=auto, is safer"
    return f"no clear prediction, {numbers}"


def _piloted(
    config: PolicyConfig,
    weighting: WeightingFactory,
    steps: int,
    judged_by: Callable[[PreTrainedTokenizerBase], Judges],
    advance: Advance,
) -> tuple[NDArray[np.float64], Judges]:
    """How far `steps` move the log-probability of each program, (N,); and the programs."""
    found: list[Judges] = []

    def seen(policy: MTPForCausalLM, tokenizer: PreTrainedTokenizerBase) -> TokenWeighting:
        found.append(judged_by(tokenizer))
        return weighting(policy, tokenizer)

    warmup = min(config.optim.warmup_steps, steps)
    moving = {
        "optim": config.optim.model_copy(update={"warmup_steps": warmup}),
        "model": config.model.model_copy(update={"head_warmup_steps": 0}),
    }
    config = config.model_copy(update=moving)
    parts = policy_parts(config, seen)
    policy, judged = cast(MTPForCausalLM, parts.model), found[0]
    updates = updates_of(config, parts, config.run.root / config.run.name)
    before = _log_probs(policy, judged, config)
    for _ in range(steps):
        updates.step()
        advance(1)
    return _log_probs(policy, judged, config) - before, judged


@torch.no_grad()
def _log_probs(policy: MTPForCausalLM, judged: Judges, config: PolicyConfig) -> NDArray[np.float64]:
    """log π(program) at the programs' temperature, (N,); every rank computes all of them."""
    policy.eval()
    device = pick_device(config.runtime)
    found = np.empty(len(judged.store))
    for batch in BatchStream(judged.store, config.data.max_tokens, 1, 0).first():
        with autocast(device, config.runtime):
            log_probs = program_log_probs(policy, batch.to(device), judged.temperature)
        found[batch.sample_ids.numpy()] = log_probs.cpu().double().numpy()
    free_root(policy)
    return found
