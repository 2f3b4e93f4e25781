"""Which tokens count: programs coloured by the weights that training gives them, and by what the critic says of them.

    uv run wmtp weights --critic storage/runs/critic_local --output weights.html
    uv run wmtp weights --run storage/runs/verifiable_local      with the options and running moments of that run

Writes an HTML page, and a picture of a few of its programs beside it.
"""

import datetime
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from tokenizers.decoders import DecodeStream
from torch import Tensor
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from transformers import PreTrainedTokenizerBase

from weighted_mtp.data.batches import Batch, TokenStore, build_store, collate, within
from weighted_mtp.data.index import read_index
from weighted_mtp.data.load import SplitsConfig
from weighted_mtp.data.prompts import MARKS, encode_solutions
from weighted_mtp.data.schema import Problem, Solution
from weighted_mtp.data.tables import read_problems, read_solutions
from weighted_mtp.errors import UserError
from weighted_mtp.extras import can_draw
from weighted_mtp.models.checkpoint import newest_model
from weighted_mtp.models.convert import load_base
from weighted_mtp.models.mtp import MTPForCausalLM
from weighted_mtp.pipelines.config import WeightsConfig
from weighted_mtp.pipelines.critic import check_same_tokens, critic_config, load_critic, load_critics, load_reference
from weighted_mtp.pipelines.fit import run_options
from weighted_mtp.pipelines.inputs import trained_day
from weighted_mtp.pipelines.kinds import pipeline_of
from weighted_mtp.pipelines.policy import explicit_weighting, head_losses
from weighted_mtp.pipelines.run_rho1 import Rho1RunConfig
from weighted_mtp.pipelines.run_verifiable import VerifiableConfig, settled_strength
from weighted_mtp.report.token_page import ShownProgram, Token, View, write_page
from weighted_mtp.runtime.config import RuntimeConfig
from weighted_mtp.runtime.device import pick_device
from weighted_mtp.runtime.sharding import placed_frozen
from weighted_mtp.section import validated
from weighted_mtp.value_weighting.base import ObjectiveState, TokenWeighting
from weighted_mtp.value_weighting.metrics import localisation_auc
from weighted_mtp.value_weighting.rho1 import Rho1Weighting
from weighted_mtp.value_weighting.td import TDConfig, TDWeighting

IN_PICTURE = 4
"""Programs of the page that the picture shows."""
END = "⟨end⟩"
_STRONG = 0.98  # quantile of |δ| that has the full colour: one outlier would leave the others pale


@dataclass(frozen=True)
class WeightSource:
    """Where weights come from.

    weights    batches, of which the second argument says which hold correct programs → (B, T) or (B, T, H) each
    judgement  batch → (B, T), what tokens are judged by; `title` and `explanation` say what it is
    localises  whether a low judgement is meant to show what is wrong
    day        what prompts took for today in training, if they name a date
    """

    weights: Callable[[Sequence[Batch], Sequence[bool]], list[Tensor]]
    judgement: Callable[[Batch], Tensor]
    title: str
    explanation: str
    localises: bool
    tokenizer: PreTrainedTokenizerBase
    template: str
    day: datetime.date | None
    max_length: int
    runtime: RuntimeConfig
    notes: tuple[str, ...]


def critic_source(run: Path) -> WeightSource:
    """Only a critic: the weights that `weighting` with its defaults would give, whitened by the correct programs.

    Those are what a policy learns from; the moments of a training run are theirs.
    """
    config = critic_config(run)
    data, runtime, critic = config.data, config.runtime, load_critic(run, config.runtime)
    weighting = TDWeighting(TDConfig(), critic.values, critic.output_kind)
    shown = TDWeighting(_held(TDConfig()), critic.values, critic.output_kind)

    def weights(batches: Sequence[Batch], correct: Sequence[bool]) -> list[Tensor]:
        learned_from = [batch for batch, is_correct in zip(batches, correct, strict=True) if is_correct]
        if not learned_from:
            raise UserError(
                f"--critic {run}: no correct program of the problems shown is within its data.max_length="
                f"{data.max_length}, and those set the scale of its weights; show more problems, or another --dataset"
            )
        _, state = weighting(learned_from, weighting.initial_state())
        return shown(batches, state)[0]

    notes = (f"Critic {run}; weighting with its default options, moments of the correct programs shown.",)
    return WeightSource(
        weights,
        shown.td_errors,
        *_DELTA,
        True,
        critic.tokenizer,
        data.template,
        trained_day(run),
        data.max_length,
        runtime,
        notes,
    )


def run_source(run: Path) -> WeightSource:
    """A run that is weighted by a critic or by Rho-1, as of its newest checkpoint.

    Raises UserError if `run` is no such run or has no checkpoint yet.
    """
    options = run_options(run)
    config = validated(pipeline_of(options, str(run)).schema, options, f"{run}: ")
    if isinstance(config, Rho1RunConfig):
        return _rho1_source(run, config)
    if not isinstance(config, VerifiableConfig):
        raise UserError(
            f"--run {run}: the run of a {config.pipeline} pipeline, not a run with token weights (verifiable or rho1); "
            "for a critic give --critic"
        )
    critic = load_critics(config.critics, config.runtime)
    chosen = config.weighting.model_copy(update={"strength": settled_strength(config)})
    held = TDWeighting(_held(chosen), critic.values, critic.output_kind)
    weighting = explicit_weighting(config, held, _policy(run, config.runtime)[0])
    state = _saved_state(run, weighting)
    critics = ", ".join(map(str, config.critics))
    notes = (
        f"Run {run}: weights of critic {critics}, options and running moments of the run's newest checkpoint, "
        f"control {config.control}.",
    )
    return WeightSource(
        lambda batches, _correct: weighting(batches, state)[0],
        held.td_errors,
        *_DELTA,
        True,
        critic.tokenizer,
        config.data.template,
        trained_day(run),
        config.data.max_length,
        config.runtime,
        notes,
    )


def _rho1_source(run: Path, config: Rho1RunConfig) -> WeightSource:
    policy, tokenizer = _policy(run, config.runtime)
    reference = load_reference(config.reference, config.runtime)
    check_same_tokens(tokenizer, reference.tokenizer, f"reference={config.reference}")
    rho1 = Rho1Weighting(config.rho1, head_losses(policy, config.runtime), reference.values)
    weighting = explicit_weighting(config, rho1, policy)
    state = _saved_state(run, weighting)
    notes = (
        f"Run {run}: Rho-1 with reference {config.reference}, policy of the newest checkpoint, control "
        f"{config.control}. The top {config.rho1.k_percent:g} % are chosen among the programs shown.",
    )
    return WeightSource(
        lambda batches, _correct: weighting(batches, state)[0],
        lambda batch: rho1.scores(batch)[..., 0],
        "score",
        f"What tokens are ranked by ({config.rho1.mode}; head 1), in nats.",
        False,
        tokenizer,
        config.data.template,
        trained_day(run),
        config.data.max_length,
        config.runtime,
        notes,
    )


def _policy(run: Path, runtime: RuntimeConfig) -> tuple[MTPForCausalLM, PreTrainedTokenizerBase]:
    """The policy of a run's newest checkpoint, on its device."""
    policy, tokenizer = load_base(str(newest_model(run)), "float32")
    placed_frozen(policy, runtime)
    return cast(MTPForCausalLM, policy), tokenizer


_DELTA = ("δ", "What the critic says of a token: how much its value rises or falls with it.")


def _held(config: TDConfig) -> TDConfig:
    """The weighting with moments that looking does not move: a step's share in them is 0, as no training may set it."""
    return config.model_copy(update={"momentum": 0.0, "warmup_steps": 0})


def _saved_state(run: Path, weighting: TokenWeighting) -> ObjectiveState:
    """The weighting's state in the newest checkpoint."""
    contents = {"objective": dict(weighting.initial_state())}
    if contents["objective"]:
        with warnings.catch_warnings(action="ignore"):  # DCP says that there is no process group: there is none
            dcp_load(contents, checkpoint_id=newest_model(run).parent / "state")
    return contents["objective"]


def split_of(config: WeightsConfig) -> Path:
    """The folder of a split: of what the run learned from, unless others are given; of several datasets the first."""
    data = run_options(config.trained).get("data", {})
    own = validated(SplitsConfig, {name: data[name] for name in SplitsConfig.model_fields if name in data})
    dataset = (config.data_root or own.root) / (config.dataset or own.datasets[0])
    return dataset / (config.split or own.validation or own.train)


def chosen_programs(directory: Path, n_problems: int) -> tuple[list[Problem], list[Solution]]:
    """The first problems of a split that have both, each with its first correct and its first incorrect program.

    Raises UserError if no problem has both.
    """
    index = read_index(directory)
    both = np.intersect1d(index.problem[index.is_correct], index.problem[~index.is_correct])[:n_problems]
    if not len(both):
        raise UserError(
            f"{directory}: no problem has both a correct and an incorrect program; choose another --dataset or --split"
        )
    rows = [
        int(np.flatnonzero((index.problem == problem) & (index.is_correct == is_correct))[0])
        for problem in both
        for is_correct in (True, False)
    ]
    return read_problems(directory, both.astype(np.int64)), read_solutions(directory, rows)


def token_texts(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], response: Sequence[int]) -> list[str]:
    """The text that each token of a response adds; "" for one whose character a later token completes, and for EOS."""
    backend = tokenizer.backend_tokenizer
    stream = DecodeStream(skip_special_tokens=True)
    texts = [stream.step(backend, token) or "" for token in (*prompt, *response)]
    return texts[len(prompt) :]


def shown_programs(
    source: WeightSource, problems: Sequence[Problem], solutions: Sequence[Solution]
) -> tuple[list[View], list[ShownProgram]]:
    """The programs with every token's weight (of each head, where heads differ) and judgement, and the scales."""
    examples = encode_solutions(source.tokenizer, source.template, problems, solutions, source.day)
    store = within(build_store(examples), source.max_length)
    device = pick_device(source.runtime)
    batches = [collate(store, np.array([row])).to(device) for row in range(len(store))]
    by_id = {solution.solution_id: solution for solution in solutions}
    kept = [by_id[name] for name in store.sample_ids]
    weights = [w.float().cpu() for w in source.weights(batches, [solution.is_correct for solution in kept])]
    judgements = [source.judgement(batch).float().cpu() for batch in batches]
    on_cpu = [batch.to("cpu") for batch in batches]
    tasks = {problem.problem_id: problem.description.strip() for problem in problems}
    shown = [
        ShownProgram(
            solution.solution_id,
            tasks[solution.problem_id],
            solution.is_correct,
            tuple(_tokens(source.tokenizer, store, batch, weight, judgement)),
            tuple(_facts(source, batch, weight, judgement)),
        )
        for solution, batch, weight, judgement in zip(kept, on_cpu, weights, judgements, strict=True)
    ]
    return _views(source, on_cpu, weights, judgements), shown


def _tokens(
    tokenizer: PreTrainedTokenizerBase, store: TokenStore, batch: Batch, weights: Tensor, judgement: Tensor
) -> list[Token]:
    start = int(store.response_start[int(batch.sample_ids)])
    ids = batch.input_ids[0].tolist()
    texts = token_texts(tokenizer, ids[:start], ids[start:])
    if ids[-1] == tokenizer.eos_token_id:
        texts[-1] = END
    values = torch.cat([weights[0].reshape(len(ids), -1), judgement[0, :, None]], dim=1)[start:].tolist()
    marks = batch.marks[0, start:].tolist()
    return [
        Token(text, tuple(value), bool(mark & MARKS["semantic"]), bool(mark & MARKS["wrong"]))
        for text, value, mark in zip(texts, values, marks, strict=True)
    ]


def _facts(source: WeightSource, batch: Batch, weights: Tensor, judgement: Tensor) -> list[str]:
    semantic = (batch.marks & MARKS["semantic"]) > 0
    wrong = (batch.marks & MARKS["wrong"]) > 0
    facts = []
    if semantic.any():
        w, inside = weights[batch.response_mask], semantic[batch.response_mask]
        tokens, weight = inside.float().mean(), w[inside].sum() / w.sum()
        facts.append(f"Semantic tokens: {tokens:.0%} of the tokens, {weight:.0%} of the weight.")
    if source.localises and wrong.any():
        auc, n = localisation_auc(judgement, batch.response_mask, wrong.int().argmax(1))
        facts.append(f"The first wrong token's {source.title} is below that of {float(auc / n):.0%} of the others.")
    return facts


def _views(
    source: WeightSource, batches: Sequence[Batch], weights: Sequence[Tensor], judgements: Sequence[Tensor]
) -> list[View]:
    masks = [batch.response_mask for batch in batches]
    all_weights = torch.cat([w[m].reshape(int(m.sum()), -1) for w, m in zip(weights, masks, strict=True)])
    said = torch.cat([j[m] for j, m in zip(judgements, masks, strict=True)])
    n_heads = all_weights.shape[1]
    strong = float(said.abs().quantile(_STRONG))
    return [
        View(
            "weight" if n_heads == 1 else f"weight, head {k + 1}",
            "How much a token counts in the loss; 1 is an unweighted token.",
            min(1.0, float(all_weights[:, k].min())),
            1.0,
            max(1.0, float(all_weights[:, k].max())),
        )
        for k in range(n_heads)
    ] + [View(source.title, source.explanation, -strong, 0.0, strong)]


def write_weights(source: WeightSource, directory: Path, n_problems: int, output: Path) -> list[Path]:
    """Write the page, and the picture beside it where figures can be drawn; returns the files."""
    views, shown = shown_programs(source, *chosen_programs(directory, n_problems))
    write_page(output, f"Token weights: {directory.parent.name}/{directory.name}", source.notes, views, shown)
    if not can_draw():
        return [output]
    from weighted_mtp.report.token_picture import draw_programs

    picture = output.with_suffix(".png")
    draw_programs(picture, views[:1] + views[-1:], [_of_two(program) for program in shown[:IN_PICTURE]])
    return [output, picture]


def _of_two(program: ShownProgram) -> ShownProgram:
    """The program with only its first weight and its judgement."""
    tokens = (Token(t.text, (t.values[0], t.values[-1]), t.semantic, t.wrong) for t in program.tokens)
    return ShownProgram(program.name, program.task, program.is_correct, tuple(tokens), program.facts)
