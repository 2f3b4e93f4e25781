"""A token weighting of one's own: learn only from the tokens before which the policy hesitates (arXiv 2506.01939).

uv run wmtp train third-party --config configs/local/third_party_local.yaml --override options.share=0.3
"""

import torch


class HighEntropy:
    """Weight 1 for the share of a microbatch's response tokens with the highest entropy, 0 for the others."""

    def __init__(self, policy, *, share: float = 0.5) -> None:
        self.policy, self.share = policy, share

    def initial_state(self) -> dict:
        return {}  # nothing is remembered from step to step

    @torch.no_grad()
    def __call__(self, batches, state):
        return [self.weights(batch) for batch in batches], state

    def weights(self, batch) -> torch.Tensor:
        logits = self.policy(input_ids=batch.input_ids).logits.float()
        entropy = torch.distributions.Categorical(logits=logits).entropy().roll(1, dims=1)  # of the token itself
        return (entropy >= entropy[batch.response_mask].quantile(1 - self.share)).float()
