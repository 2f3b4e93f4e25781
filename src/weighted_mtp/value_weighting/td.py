"""Token weights from a critic: V → TD error → GAE → whitening → exp(A / β), clipped.

Shapes: B batch, T time, H heads. `response_mask` (B, T) bool is right-padded and contiguous in each row: the response
x_p … x_{T−1}. V_t = value(x_{≤t}), so V_{p−1}, at the last prompt token, is the value before the response.

    δ_t = r_t + γ V_t − V_{t−1}            what appending x_t changed
    A_t = Σ_{l≥0} (γλ)^l δ_{t+l}           GAE (Schulman et al. 2015, arXiv 1506.02438, eq. 16), over response tokens
    w_t = clip(exp(Â_t / β), w_min, w_max)  with Â = (A − μ) / (σ + ε) by running moments
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from weighted_mtp.data.batches import Batch
from weighted_mtp.errors import UserError
from weighted_mtp.runtime.distributed import all_reduce_sum
from weighted_mtp.section import Section
from weighted_mtp.value_weighting.base import ObjectiveState
from weighted_mtp.value_weighting.moments import Moments, moment_sums

ValueFunction = Callable[[Batch], Tensor]
"""batch → a critic's output (B, T); what it holds on padding is never looked at. It sets eval mode itself."""

CriticOutput = Literal["score", "probability", "advantage"]
"""`score`: any real number, a logit if the critic is calibrated. `probability`: in [0, 1], or about there if it is
regressed on outcomes. `advantage`: δ itself."""

Strength = Annotated[float, Field(ge=0, le=1)]

EPSILON = 1e-6  # added to σ: a critic that says the same everywhere gives weights of 1
EDGE = 1e-6  # probabilities are kept this far from 0 and 1 before log-odds are taken of them


class TDConfig(Section):
    """How a critic's values become token weights."""

    gamma: float = Field(1.0, gt=0, le=1)
    """Discount of a token."""
    lam: float | None = Field(None, ge=0, le=1)
    """λ of GAE: 0 credits a token with its own δ only, 1 with everything that follows. If not given, 0 for a critic
    that gives advantages, whose sums would only be a ramp over position, and 0.95 for others."""
    centre: Literal["batch", "program"] = "batch"
    """What an advantage is compared to: the mean of all tokens, or also that of its own program, so that no program
    counts more than another."""
    beta: float = Field(1.0, gt=0)
    """Temperature; the smaller, the more weights differ."""
    w_min: float = Field(0.1, ge=0)
    """Least weight; less than `w_max`."""
    w_max: float = Field(3.0, gt=0)
    """Greatest weight."""
    momentum: float = Field(0.1, gt=0, le=1)
    """Share of a step in the running moments."""
    warmup_steps: int = Field(10, ge=0)
    """Number of first steps in which the moments are cumulative."""
    space: Literal["value", "probability", "log_odds"] = "value"
    """Where δ is taken: the critic's output as it is, the probability it stands for, or that one's log-odds."""
    terminal_reward: float | None = None
    """R of every sample (1: policies learn from correct programs); the last δ is then R − V. For calibrated critics."""
    strength: Strength | Literal["auto"] = 1.0
    """How far weights go from uniform, w → 1 + strength (w − 1): 0 is uniform, and below 1 no token starves. `auto`:
    ½ or 1, what a run's `gate` predicts to be best if its interval is clear of zero, else 0."""
    anneal_steps: int = Field(0, ge=0)
    """Number of first steps in which the weights move linearly from uniform to their own."""
    head_strengths: tuple[float, ...] | None = None
    """s_k in [0, 1], one per head: head k is weighted by 1 + s_k (w − 1). All heads alike if not given."""

    @model_validator(mode="after")
    def _options_agree(self) -> "TDConfig":
        if self.w_min >= self.w_max:
            raise ValueError(f"w_min={self.w_min} must be less than w_max={self.w_max}")
        if self.terminal_reward is not None and self.space == "log_odds":
            raise ValueError("terminal_reward is a probability and cannot end log-odds: leave it out, or change space")
        if any(not 0 <= s <= 1 for s in self.head_strengths or ()):
            raise ValueError(f"head_strengths={self.head_strengths} must lie between 0 and 1")
        return self

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Least and greatest weight after the annealing; None if nothing is clipped, or each head has its own."""
        if self.strength in (0, "auto") or self.head_strengths is not None:
            return None
        assert not isinstance(self.strength, str)
        return 1 + self.strength * (self.w_min - 1), 1 + self.strength * (self.w_max - 1)


class TDWeighting:
    """Weights exp(whitened GAE / β) from any critic, explicit or implicit (docs/RESEARCH.md).

    State: the running moments, of which `steps` also drives the annealing.
    """

    def __init__(
        self,
        config: TDConfig,
        critic: ValueFunction,
        output_kind: CriticOutput = "score",
    ) -> None:
        """
        critic       see `ValueFunction`
        output_kind  what its output is; `advantage` (an implicit critic's log-ratios) stands for δ and is used as it is

        Raises UserError for options that have no effect on advantages, and for a terminal reward among scores.
        """
        if output_kind == "advantage" and (config.space != "value" or config.terminal_reward is not None):
            raise UserError(
                f"weighting: a critic that gives advantages has no values for space={config.space} and "
                f"terminal_reward={config.terminal_reward}: set space=value and leave terminal_reward out"
            )
        if output_kind == "score" and config.terminal_reward is not None and config.space != "probability":
            raise UserError(
                f"weighting.terminal_reward={config.terminal_reward} is a probability and this critic gives scores: "
                "set weighting.space=probability, or leave the reward out"
            )
        assert not isinstance(config.strength, str), "auto is settled before there are weights"
        self.config, self.critic, self.output_kind, self.strength = config, critic, output_kind, config.strength
        self.bounds = config.bounds
        self.lam = config.lam if config.lam is not None else (0.0 if output_kind == "advantage" else 0.95)

    def initial_state(self) -> ObjectiveState:
        return Moments.initial().state()

    @torch.no_grad()
    def __call__(self, batches: Sequence[Batch], state: ObjectiveState) -> tuple[list[Tensor], ObjectiveState]:
        """Weights (B, T), or (B, T, H) with `head_strengths`, 1 outside the response; the moments with this step in."""
        config = self.config
        advantages = [self.advantages(batch) for batch in batches]
        before = Moments.of(state).to(advantages[0].device)
        sums = all_reduce_sum(moment_sums([b.at_response(a) for b, a in zip(batches, advantages, strict=True)]))
        moments = before.updated(sums, config.momentum, config.warmup_steps)
        annealed = (before.steps / config.anneal_steps).clamp(max=1) if config.anneal_steps else torch.ones(())
        strength = (self.strength * annealed).to(advantages[0])
        weights = [
            self._mixed(exponential_weights(whitened(a, moments), config).masked_fill(~b.response_mask, 1.0), strength)
            for a, b in zip(advantages, batches, strict=True)
        ]
        return weights, moments.state()

    @torch.no_grad()
    def advantages(self, batch: Batch) -> Tensor:
        """A (B, T) in fp32, 0 outside the response: GAE of the δ, with `centre: program` less the program's mean."""
        mask = batch.response_mask
        found = gae(self.td_errors(batch), mask, self.config.gamma, self.lam)
        if self.config.centre == "program":
            mean = found.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
            found = (found - mean).masked_fill(~mask, 0.0)
        return found

    @torch.no_grad()
    def td_errors(self, batch: Batch) -> Tensor:
        """δ (B, T) in fp32, 0 outside the response: what the critic says of every token."""
        output, mask = self.critic(batch).float(), batch.response_mask
        if self.output_kind == "advantage":
            return output.masked_fill(~mask, 0.0)
        reward = self.config.terminal_reward
        rewards = None if reward is None else output.new_full((len(output),), reward)
        return td_errors(in_space(output, self.output_kind, self.config.space), mask, self.config.gamma, rewards)

    def _mixed(self, weights: Tensor, strength: Tensor) -> Tensor:
        """1 + strength (w − 1), exactly w for 1 and 1 for 0; with a strength for each head, one more dimension."""
        if self.config.head_strengths is None:
            return torch.lerp(torch.ones_like(weights), weights, strength)
        weights = weights.unsqueeze(-1)
        return torch.lerp(torch.ones_like(weights), weights, strength * weights.new_tensor(self.config.head_strengths))


def in_space(output: Tensor, output_kind: CriticOutput, space: Literal["value", "probability", "log_odds"]) -> Tensor:
    """A critic's output, a score or a probability, in the space in which δ is to be taken; any shape."""
    if space == "probability" and output_kind == "score":
        return torch.sigmoid(output)
    if space == "log_odds" and output_kind == "probability":
        return torch.logit(output, EDGE)
    return output


def td_errors(values: Tensor, response_mask: Tensor, gamma: float, terminal_reward: Tensor | None = None) -> Tensor:
    """δ_t = γ V_t − V_{t−1} on response tokens, 0 elsewhere.

    values           (B, T) float
    response_mask    (B, T) bool
    terminal_reward  (B,) R; the last response token's δ is then R − V_{t−1}: nothing follows it that V could foresee
    returns          (B, T)

    A response that begins with the very first token has no value before it: that token's δ is 0.
    """
    after = gamma * values
    before = torch.cat([after[:, :1], values[:, :-1]], dim=1)
    if terminal_reward is not None:
        after = torch.where(last_tokens(response_mask), terminal_reward[:, None].to(values.dtype), after)
    return torch.where(response_mask, after - before, 0.0)


def gae(delta: Tensor, response_mask: Tensor, gamma: float, lam: float) -> Tensor:
    """A_t = Σ_{l≥0} (γλ)^l δ_{t+l} over response tokens, 0 elsewhere; delta (B, T) float → (B, T).

    λ = 0 gives δ; λ = γ = 1 telescopes to V_{T−1} − V_{t−1}.
    """
    return discounted_sums(delta.masked_fill(~response_mask, 0.0), gamma * lam).masked_fill(~response_mask, 0.0)


def discounted_sums(x: Tensor, decay: float) -> Tensor:
    """y_t = Σ_{l≥0} decay^l x_{t+l} along the last dimension, for 0 ≤ decay ≤ 1.

    Sums over spans of 1, 2, 4 … tokens, each made of two of the ones before, so ⌈log₂ T⌉ steps for any T. Powers of
    `decay` only multiply and never divide (as they would in a ratio of cumulative sums): they may underflow to 0,
    which is what they are, but nothing overflows, and rounding grows with log T.
    """
    total, span = x, 1
    while span < x.shape[-1]:
        # total_t covers `span` tokens from t on; that of t + span, decayed, continues it without gap or overlap
        total = total + F.pad(decay**span * total[..., span:], (0, span))
        span *= 2
    return total


def last_tokens(mask: Tensor) -> Tensor:
    """(B, T) True at the last True of each row of a mask without holes."""
    follows = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1)
    return mask & ~follows


def whitened(advantages: Tensor, moments: Moments) -> Tensor:
    """Â = (A − μ) / (σ + ε), any shape."""
    return (advantages - moments.mean) / (moments.std + EPSILON)


def exponential_weights(whitened_advantages: Tensor, config: TDConfig) -> Tensor:
    """w = clip(exp(Â / β), w_min, w_max), any shape."""
    return (whitened_advantages / config.beta).exp().clamp(config.w_min, config.w_max)
