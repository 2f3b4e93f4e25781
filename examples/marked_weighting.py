"""Token weightings that are told which tokens decide, as only the micro benchmark can: what a perfect critic could add.

uv run wmtp study --config configs/local/study_weights.yaml
"""

from weighted_mtp import load_critic
from weighted_mtp.data.prompts import MARKS
from weighted_mtp.value_weighting.controls import Uniform
from weighted_mtp.value_weighting.td import TDConfig, TDWeighting


class WhereProgramsDiffer(Uniform):
    """`weight` on the tokens of which an incorrect program has one other, 1 on the others."""

    def __init__(self, policy, *, weight: float = 3.0) -> None:
        self.weight = weight

    def __call__(self, batches, state):
        return [1 + (self.weight - 1) * marked(batch, "semantic") for batch in batches], state


class CreditWhereProgramsDiffer(TDWeighting):
    """A critic's weights on those tokens, 1 on the others."""

    def __init__(self, policy, *, critic: str, **options) -> None:
        loaded = load_critic(critic)
        super().__init__(TDConfig(**options), loaded.values, loaded.output_kind)

    def __call__(self, batches, state):
        weights, state = super().__call__(batches, state)
        return [1 + (w - 1) * marked(batch, "semantic") for w, batch in zip(weights, batches, strict=True)], state


class UpToTheFault(Uniform):
    """1 before an incorrect program's first wrong token, 0 from there on; 1 all over a correct one."""

    def __init__(self, policy) -> None:
        pass

    def __call__(self, batches, state):
        return [(marked(batch, "wrong").cumsum(1) == 0).float() for batch in batches], state


def marked(batch, kind: str):
    """(B, T) 1 on tokens within the benchmark's spans of that kind, 0 elsewhere."""
    return (batch.marks & MARKS[kind] > 0).float()
