"""Acceptance of drafts against a loop over positions."""

import torch
from tiny_models import padded_batch, tiny_model

from weighted_mtp.data.batches import Batch
from weighted_mtp.losses.acceptance import acceptance
from weighted_mtp.models.mtp import MTPForCausalLM

H = 3
IDS, REAL = padded_batch()
RESPONSE = REAL & (torch.arange(IDS.shape[1]) >= torch.tensor([1, 4])[:, None])


def batch(response: torch.Tensor) -> Batch:
    return Batch(IDS, REAL, response, torch.arange(len(IDS)), torch.zeros_like(IDS, dtype=torch.uint8))


def test_a_draft_is_accepted_where_head_one_says_the_same_with_the_true_prefix() -> None:
    model = MTPForCausalLM.from_base(tiny_model("gemma2"), H, "random")
    with torch.no_grad():
        states = model.head_states(IDS, REAL)
        for k in range(2, H + 1):  # on every other token head k knows what head 1 will say
            states[k - 1, :, 1 : 1 - k : 2] = states[0, :, k::2]
        greedy = model.unembed(states).argmax(-1)
    for k, (accepted, count) in enumerate(acceptance(model, states, batch(RESPONSE)), start=2):
        targets = [(b, s) for b, s in RESPONSE.nonzero().tolist() if s >= k]
        agreed = [bool(greedy[k - 1, b, s - k] == greedy[0, b, s - 1]) for b, s in targets]
        assert (int(accepted), int(count)) == (sum(agreed), len(agreed))
        assert 0 < sum(agreed) < len(agreed)


def test_nothing_is_proposed_where_there_is_no_response_and_by_a_single_head() -> None:
    model = MTPForCausalLM.from_base(tiny_model("llama_tied"), H)
    states = model.head_states(IDS, REAL)
    for accepted, count in acceptance(model, states, batch(torch.zeros_like(RESPONSE))):
        assert (int(accepted), int(count)) == (0, 0)
    assert acceptance(model, states[:1], batch(RESPONSE)) == []
