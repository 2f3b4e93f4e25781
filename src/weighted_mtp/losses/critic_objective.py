"""Objectives of critics for the training loop: batches of pairs in, sums and metrics out.

Shapes: B batch, T time, M pairs. Rows 2i and 2i + 1 of a batch are the correct and the incorrect program of a pair.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from weighted_mtp.data.batches import Batch
from weighted_mtp.data.prompts import MARKS
from weighted_mtp.losses.critic_loss import (
    ImplicitConfig,
    LambdaReturnConfig,
    OutcomeConfig,
    PairwiseRankingConfig,
    implicit,
    implicit_advantages,
    lambda_return,
    outcome,
    pairwise_ranking,
    program_scores,
    valued_tokens,
)
from weighted_mtp.losses.objective import Sums
from weighted_mtp.losses.token_ce import next_token_cross_entropies
from weighted_mtp.models.mtp import MTPForCausalLM
from weighted_mtp.models.value import ValueModel
from weighted_mtp.value_weighting.base import ObjectiveState
from weighted_mtp.value_weighting.metrics import calibration, localisation_auc, pair_accuracy
from weighted_mtp.value_weighting.td import CriticOutput, td_errors

ValueObjectiveConfig = PairwiseRankingConfig | LambdaReturnConfig | OutcomeConfig


class _RatiosOnly:
    """Objectives all of whose metrics are ratios of sums."""

    def summary(self, metrics: dict[str, float]) -> dict[str, float]:
        return metrics


class ValueObjective(_RatiosOnly):
    """Trains a `ValueModel`. State: the step, for the schedule of λ."""

    def __init__(self, config: ValueObjectiveConfig) -> None:
        self.config = config

    def initial_state(self) -> ObjectiveState:
        return {"step": torch.tensor(0)}

    def prepare(
        self, batches: Sequence[Batch], state: ObjectiveState
    ) -> tuple[Sequence[tuple[Batch, int]], ObjectiveState]:
        step = int(state["step"])
        return [(batch, step) for batch in batches], {"step": state["step"] + 1}

    def sums(self, model: ValueModel, item: tuple[Batch, int]) -> Sums:
        """Metrics: those of `credit_metrics`, with δ = V_t − V_{t−1}; where V predicts the outcome, `brier` and
        `calibration_error` of it, and while the model is not in training `calibration/…` of every token's V. Of other
        critics that is the calibration of their margins.
        """
        batch, step = item
        config, outcomes = self.config, outcomes_of(batch)
        scores = model.scores(batch.input_ids)
        mask = valued_tokens(batch.response_mask)
        values = torch.sigmoid(scores) if model.output_kind == "probability" else scores
        if isinstance(config, PairwiseRankingConfig):
            loss, count = pairwise_ranking(values, batch.response_mask, pairs_of(batch), config.pooling, config.margin)
        elif isinstance(config, OutcomeConfig):
            loss, count = outcome(scores, mask, outcomes)
        else:
            lam = config.lam_at(step)
            loss, count = lambda_return(values, mask, outcomes, config.gamma, lam, config.huber_delta)
        with torch.no_grad():
            ranked = program_scores(values, batch.response_mask, config)
            metrics = credit_metrics(batch, ranked, td_errors(values, batch.response_mask, gamma=1.0))
            probabilities = predicted_success(scores, config, model.output_kind)
            if probabilities is not None:
                happened = outcomes[:, None].expand_as(mask)
                bins = calibration(probabilities, happened, mask)
                metrics["calibration_error"] = (bins[0] - bins[1], mask.sum())
                metrics["brier"] = (((probabilities - happened) ** 2)[mask].sum(), mask.sum())
            if not model.training:
                metrics |= calibration_metrics(margin_calibration(batch, ranked) if probabilities is None else bins)
        return Sums(loss, count, metrics)


class ImplicitObjective(_RatiosOnly):
    """Trains a copy of the reference to prefer correct programs; nothing is remembered."""

    def __init__(self, config: ImplicitConfig, reference: Callable[[Batch], Tensor]) -> None:
        """reference: batch → (B, T), cross-entropy of the frozen reference's next-token prediction."""
        self.config, self.reference = config, reference

    def initial_state(self) -> ObjectiveState:
        return {}

    def prepare(
        self, batches: Sequence[Batch], state: ObjectiveState
    ) -> tuple[Sequence[tuple[Batch, Tensor]], ObjectiveState]:
        return [(batch, -self.reference(batch)) for batch in batches], state

    def sums(self, model: MTPForCausalLM, item: tuple[Batch, Tensor]) -> Sums:
        """Metrics: those of `credit_metrics`, where log-ratios are δ and their sums the programs' rewards; and `ce`,
        the copy's cross-entropy on correct programs, nats per token; while it is not in training, `calibration/…` of
        its margins.
        """
        batch, reference = item
        log_probs = -next_token_cross_entropies(model, batch)
        loss, count = implicit(log_probs, reference, batch.response_mask, pairs_of(batch), self.config)
        delta = implicit_advantages(log_probs.detach(), reference, batch.response_mask, self.config.beta)
        ranked = program_scores(delta, batch.response_mask, self.config)
        metrics = credit_metrics(batch, ranked, delta)
        metrics["ce"] = _on_correct(-log_probs.detach(), batch)
        if not model.training:
            metrics |= calibration_metrics(margin_calibration(batch, ranked))
        return Sums(loss, count, metrics)


def pairs_of(batch: Batch) -> Tensor:
    """(M, 2) rows of a batch of pairs."""
    return torch.arange(len(batch.input_ids), device=batch.input_ids.device).view(-1, 2)


def outcomes_of(batch: Batch) -> Tensor:
    """(B,) 1 for correct programs, 0 for incorrect ones."""
    return 1.0 - torch.arange(len(batch.input_ids), device=batch.input_ids.device) % 2


def first_wrong(batch: Batch) -> Tensor:
    """(B,) position of the first token that is known to be wrong, −1 if none is."""
    wrong = batch.marks & MARKS["wrong"] > 0
    return torch.where(wrong.any(1), wrong.int().argmax(1), -1)


def credit_metrics(batch: Batch, ranked: Tensor, delta: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """How well a critic tells correct from incorrect, how well it finds the token that makes the difference, and how
    far it drifts: the mean δ of correct programs' tokens, which a good critic keeps near 0.

    ranked   (B,) one score per program
    delta    (B, T) what the critic says of each token

    Localisation has nothing to count, and is not reported, if no wrong token is known.
    """
    return {
        "pair_accuracy": pair_accuracy(ranked, pairs_of(batch)),
        "localisation_auc": localisation_auc(delta, batch.response_mask, first_wrong(batch)),
        "drift": _on_correct(delta, batch),
    }


def predicted_success(scores: Tensor, config: ValueObjectiveConfig, output_kind: CriticOutput) -> Tensor | None:
    """P(success | prefix) as a value model says it, of the shape of its scores; None if it only ranks.

    A λ-return is regressed on outcomes and may leave [0, 1] by what it is wrong: the nearest end is taken.
    """
    if isinstance(config, OutcomeConfig) or output_kind == "probability":
        return torch.sigmoid(scores)
    return scores.clamp(0.0, 1.0) if isinstance(config, LambdaReturnConfig) else None


def margin_calibration(batch: Batch, ranked: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """P(the program ranked above is the correct one) = σ(|margin|) of each pair, as Bradley and Terry have it, against
    whether it is; `calibration`'s three sums.

    ranked  (B,) one score per program; margin is that of the correct one less that of the incorrect one
    """
    margin = (ranked[pairs_of(batch)] * ranked.new_tensor([1.0, -1.0])).sum(1)
    return calibration(torch.sigmoid(margin.abs()), 0.5 * (margin.sign() + 1.0), torch.ones_like(margin).bool())


def calibration_metrics(bins: tuple[Tensor, Tensor, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """`calibration/binN/…` of `calibration`'s sums: the mean that was `predicted`, the share that `happened`, and the
    `share` of the predictions; of a bin without any, only that share is logged.
    """
    predicted, happened, n = bins
    metrics = {}
    for k in range(len(n)):
        metrics[f"calibration/bin{k + 1}/predicted"] = (predicted[k], n[k])
        metrics[f"calibration/bin{k + 1}/happened"] = (happened[k], n[k])
        metrics[f"calibration/bin{k + 1}/share"] = (n[k], n.sum())
    return metrics


def _on_correct(x: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Σ of x (B, T) over the response tokens of correct programs, and how many there are."""
    mask = batch.response_mask & (outcomes_of(batch) == 1)[:, None]
    return x.float().masked_fill(~mask, 0.0).sum(), mask.sum()
