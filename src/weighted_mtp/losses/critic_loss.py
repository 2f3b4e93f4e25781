"""What critics are trained on: pure losses on pairs of a correct and an incorrect program for the same problem.

Shapes: B batch, T time, M pairs. `pairs` (M, 2) int64 holds rows of the batch, (correct, incorrect); both of a pair lie
in the same microbatch. Masks (B, T) bool have no holes and their last True is the program's end.

Every loss returns (sum with gradient, count): the one division is the training loop's, over all microbatches. All is
computed in fp32. Nothing outside the mask is looked at, so padding may hold anything.
"""

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from weighted_mtp.section import Section
from weighted_mtp.value_weighting.td import discounted_sums, last_tokens

LossSum = tuple[Tensor, Tensor]
"""(scalar sum with gradient, scalar count)."""

Pooling = Literal["mean", "last"]


class PairwiseRankingConfig(Section):
    """Rank the correct program of a pair above the incorrect one."""

    objective: Literal["pairwise_ranking"] = "pairwise_ranking"
    pooling: Pooling = "mean"
    """A program's value: the mean over its response tokens, or that of its last token."""
    margin: float | None = Field(None, gt=0)
    """Hinge loss with this margin; Bradley–Terry if not given."""


class LambdaReturnConfig(Section):
    """Regress V on the λ-return, which ends in 1 for a correct program and 0 for an incorrect one."""

    objective: Literal["lambda_return"] = "lambda_return"
    gamma: float = Field(1.0, gt=0, le=1)
    """Discount of a token."""
    lam: float = Field(0.95, ge=0, le=1)
    """1 is Monte Carlo: every token is regressed on the outcome itself, discounted."""
    lam_start: float | None = Field(None, ge=0, le=1)
    """λ at the first step, such as 1 while V is too poor to learn from itself; it moves linearly to `lam`."""
    lam_steps: int = Field(0, ge=0)
    """Steps until λ is `lam`; must be given with `lam_start`."""
    huber_delta: float | None = Field(None, gt=0)
    """Huber loss, linear beyond this error; squared error if not given."""

    @model_validator(mode="after")
    def _schedule_is_whole(self) -> "LambdaReturnConfig":
        if (self.lam_start is None) != (self.lam_steps == 0):
            raise ValueError(
                f"lam_start={self.lam_start} and lam_steps={self.lam_steps} belong together: give both or neither"
            )
        return self

    def lam_at(self, step: int) -> float:
        """λ of a 0-based step."""
        if self.lam_start is None or step >= self.lam_steps:
            return self.lam
        return self.lam_start + (self.lam - self.lam_start) * step / self.lam_steps


class OutcomeConfig(Section):
    """Predict at every token whether the program will turn out correct."""

    objective: Literal["outcome"] = "outcome"


class ImplicitConfig(Section):
    """A copy of the reference learns to prefer correct programs: its per-token log-ratio is the advantage, and there is
    no value head."""

    objective: Literal["implicit"] = "implicit"
    beta: float = Field(0.1, gt=0)
    """Scale of the log-ratios; the smaller, the farther the copy moves from the reference."""
    form: Literal["relative", "absolute"] = "relative"
    """`relative`: rank the correct program of a pair above the incorrect one (DPO). `absolute`: judge for each program
    by itself whether it is correct."""
    anchor: float = Field(1.0, ge=0)
    """α, how much the copy also learns to write the correct program. Without it (0) both programs may become unlikely,
    and log-ratios drift even if nothing is learned."""


CriticObjective = PairwiseRankingConfig | LambdaReturnConfig | OutcomeConfig | ImplicitConfig


def valued_tokens(response_mask: Tensor) -> Tensor:
    """(B, T) the response and the last prompt token, whose V_{p−1} the first δ needs: the mask of per-token losses."""
    return response_mask | torch.cat([response_mask[:, 1:], torch.zeros_like(response_mask[:, :1])], dim=1)


def pooled(values: Tensor, response_mask: Tensor, pooling: Pooling) -> Tensor:
    """One value a program, (B,) fp32, from values (B, T); 0 for a row without response."""
    chosen = response_mask if pooling == "mean" else last_tokens(response_mask)
    return values.float().masked_fill(~chosen, 0.0).sum(1) / chosen.sum(1).clamp(min=1)


def program_scores(values: Tensor, response_mask: Tensor, critic: CriticObjective) -> Tensor:
    """What a critic of this objective ranks programs by, (B,) fp32: the pooled value; the last; or Σ of advantages.

    values  (B, T), what the critic gives: scores, probabilities, or (`implicit`) advantages
    """
    if isinstance(critic, ImplicitConfig):
        return values.float().masked_fill(~response_mask, 0.0).sum(1)
    return pooled(values, response_mask, critic.pooling if isinstance(critic, PairwiseRankingConfig) else "last")


def pairwise_ranking(
    values: Tensor, response_mask: Tensor, pairs: Tensor, pooling: Pooling = "mean", margin: float | None = None
) -> LossSum:
    """Σ over pairs of −log σ(v⁺ − v⁻), or of max(0, margin − (v⁺ − v⁻)); the count is M.

    values (B, T), any real numbers. The Bradley–Terry form is that of reward models (Ouyang et al. 2022, arXiv
    2203.02155, §3.5), there on the last token. It constrains the pooled value and not its path from token to token.
    """
    value = pooled(values, response_mask, pooling)
    difference = value[pairs[:, 0]] - value[pairs[:, 1]]
    loss = F.softplus(-difference) if margin is None else F.relu(margin - difference)
    return loss.sum(), torch.full_like(value[0], len(pairs))


def lambda_return(
    values: Tensor, mask: Tensor, outcomes: Tensor, gamma: float, lam: float, huber_delta: float | None = None
) -> LossSum:
    """Σ over masked tokens of (V_t − G_t)², or of Huber's loss; the count is that of the tokens.

    values    (B, T), in the scale of the reward
    mask      (B, T), `valued_tokens`
    outcomes  (B,) R, 1 for a correct program and 0 for an incorrect one

    The squared error is not halved; Huber's is ½ e² within `huber_delta`, as PyTorch defines it.
    """
    targets = lambda_targets(values.detach(), mask, outcomes, gamma, lam)[mask]
    chosen = values.float()[mask]
    if huber_delta is None:
        loss = F.mse_loss(chosen, targets, reduction="sum")
    else:
        loss = F.huber_loss(chosen, targets, reduction="sum", delta=huber_delta)
    return loss, mask.sum()


def lambda_targets(values: Tensor, mask: Tensor, outcomes: Tensor, gamma: float, lam: float) -> Tensor:
    """G_t = (1 − λ) γ V_{t+1} + λ γ G_{t+1}, ending in G = R at the last masked token; (B, T), 0 outside the mask.

    λ = 1 gives γ^{T−1−t} R (Monte Carlo), λ = 0 gives γ V_{t+1} before the end (Sutton & Barto 2018, §12.1, for a
    reward that only the end has).
    """
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1).float()
    steps = (1 - lam) * gamma * following
    steps = torch.where(last_tokens(mask), outcomes[:, None].float(), steps)
    return discounted_sums(steps.masked_fill(~mask, 0.0), gamma * lam).masked_fill(~mask, 0.0)


def outcome(logits: Tensor, mask: Tensor, outcomes: Tensor) -> LossSum:
    """Σ over masked tokens of the binary cross-entropy of σ(logit_t) against the outcome; the count is theirs.

    logits    (B, T), so that σ(logit_t) estimates P(success | prefix)
    mask      (B, T), `valued_tokens`
    outcomes  (B,), 1 for a correct program and 0 for an incorrect one
    """
    chosen = logits.float()[mask]
    targets = outcomes[:, None].expand_as(mask)[mask].float()
    return F.binary_cross_entropy_with_logits(chosen, targets, reduction="sum"), mask.sum()


def implicit(
    log_probs: Tensor, reference_log_probs: Tensor, response_mask: Tensor, pairs: Tensor, config: ImplicitConfig
) -> LossSum:
    """Σ over pairs of a preference loss and α · mean_t −log π(x⁺_t) on the correct program; the count is M.

    log_probs, reference_log_probs  (B, T), log P(x_t | x_{<t}) of the policy copy and of the frozen reference
    r = Σ_t β (log π(x_t) − log π_ref(x_t)) over response tokens

    `relative`: −log σ(r⁺ − r⁻), DPO (Rafailov et al. 2023, arXiv 2305.18290, eq. 7), anchored as in iterative RPO (Pang
    et al. 2024, arXiv 2404.19733, eq. 2). `absolute`: −log σ(r⁺) − log σ(−r⁻), the cross-entropy of implicit process
    rewards (Yuan et al. 2024, arXiv 2412.01981, eq. 6), of which α = 0 gives the paper's.
    """
    rewards = implicit_advantages(log_probs, reference_log_probs, response_mask, config.beta).sum(1)
    good, bad = rewards[pairs[:, 0]], rewards[pairs[:, 1]]
    loss = F.softplus(bad - good) if config.form == "relative" else F.softplus(-good) + F.softplus(bad)
    if config.anchor:
        loss = loss - config.anchor * pooled(log_probs, response_mask, "mean")[pairs[:, 0]]
    return loss.sum(), torch.full_like(rewards[0], len(pairs))


def implicit_advantages(log_probs: Tensor, reference_log_probs: Tensor, response_mask: Tensor, beta: float) -> Tensor:
    """β (log π(x_t) − log π_ref(x_t)), (B, T) fp32, 0 outside the response.

    After `implicit` training it is the optimal advantage of the token, up to the shaping by a potential that leaves
    the optimal policy as it is (Rafailov et al. 2024, arXiv 2404.12358, §4): what weightings take for δ.
    """
    ratio = log_probs.float().masked_fill(~response_mask, 0.0)
    return beta * (ratio - reference_log_probs.float().masked_fill(~response_mask, 0.0))
