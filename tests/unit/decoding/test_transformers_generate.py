"""transformers' `generate` with drafting heads gives what it gives without."""

from typing import Any

import pytest
import torch
from tiny_models import VOCABULARY, tiny_model
from transformers import set_seed

from weighted_mtp.decoding.forward import Forward
from weighted_mtp.decoding.generate import draft_with_heads
from weighted_mtp.errors import UserError
from weighted_mtp.models.mtp import MTPForCausalLM

IDS = torch.randint(1, 250, (3, 9), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(IDS)
MASK[0, :4] = 0
MASK[2, :8] = 0  # a prompt of one token


def policy(architecture: str = "llama") -> MTPForCausalLM:
    model = MTPForCausalLM.from_base(tiny_model(architecture), 4, "copy")
    model.generation_config.eos_token_id = list(range(0, VOCABULARY, 12))
    model.generation_config.pad_token_id = 0
    return model


def both(model: MTPForCausalLM, ids: torch.Tensor = IDS, mask: torch.Tensor | None = MASK, **options: Any) -> list:
    found = []
    for drafting in ({}, {"custom_generate": draft_with_heads}):
        set_seed(3)
        given = {"attention_mask": torch.ones_like(ids) if mask is None else mask, "max_new_tokens": 24, **options}
        found.append(model.generate(ids, **given, **drafting))
    return found


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma3"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
        {"min_new_tokens": 10},
        {"max_length": 20, "max_new_tokens": None},
        {"eos_token_id": None},
    ],
    ids=lambda options: next(iter(options), "plain"),
)
def test_greedy_search_is_the_same_for_ragged_rows(architecture: str, options: dict[str, Any]) -> None:
    expected, found = both(policy(architecture), do_sample=False, **options)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.6, "top_k": 20, "top_p": 0.9}], ids=["plain", "warped"])
def test_one_sampled_sequence_is_the_same_under_the_same_seed(options: dict[str, Any]) -> None:
    expected, found = both(policy(), IDS[1:2], None, do_sample=True, **options)
    assert torch.equal(found, expected)


@torch.no_grad()
def test_several_sampled_sequences_stay_within_their_distribution() -> None:
    _, found = both(policy(), IDS[1:2], None, do_sample=True, top_k=3, num_return_sequences=4)
    assert found.shape[0] == 4
    model = policy()
    for row in found:
        length = int((row != 0).sum())
        likeliest = model(row[None, :length]).logits[0].topk(3).indices
        assert all(row[at + 1] in likeliest[at] for at in range(IDS.shape[1] - 1, length - 1))


def test_right_drafts_are_accepted_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids, passes = policy(), IDS[1:2], []
    (expected, _) = both(model, ids, None, do_sample=False, eos_token_id=None)
    call, logits = Forward.__call__, Forward.drafts

    def counted(self: Forward, *given: Any, **options: Any) -> Any:
        passes.append(int(given[1][0, 0]))
        return call(self, *given, **options)

    def told(self: Forward, *given: Any) -> torch.Tensor:
        at = 9 + 4 * (len(passes) - 1)  # all drafts are right, so every pass gives four tokens
        coming = [*expected[0, at : at + 3].tolist(), 0, 0, 0][:3]
        shaped = logits(self, *given)
        return torch.nn.functional.one_hot(torch.tensor(coming), VOCABULARY).float().view(shaped.shape)

    monkeypatch.setattr(Forward, "__call__", counted)
    monkeypatch.setattr(Forward, "drafts", told)
    monkeypatch.setattr("weighted_mtp.decoding.forward.takes_slots", lambda forward: True)
    options = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": None}
    found = model.generate(ids, attention_mask=torch.ones_like(ids), custom_generate=draft_with_heads, **options)
    assert torch.equal(found, expected)
    assert len(passes) == 1 + 24 / 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2}, "num_beams=2"),
        ({"output_scores": True, "return_dict_in_generate": True}, "output_scores=True"),
    ],
)
def test_what_drafts_cannot_give_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        policy().generate(IDS, attention_mask=MASK, max_new_tokens=4, custom_generate=draft_with_heads, **options)


def test_a_model_without_further_heads_is_refused() -> None:
    with pytest.raises(UserError, match="no further heads"):
        tiny_model().generate(IDS, attention_mask=MASK, max_new_tokens=4, custom_generate=draft_with_heads)
