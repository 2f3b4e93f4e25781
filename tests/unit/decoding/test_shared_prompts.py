"""Rows that share their prompt's keys and values draw what they draw where each has its own."""

import pytest
import torch
from tiny_models import VOCABULARY, letter_tokenizer, tiny_model
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel

from weighted_mtp.decoding import lean, speculative
from weighted_mtp.decoding.config import SamplingConfig
from weighted_mtp.decoding.forward import Forward
from weighted_mtp.decoding.sample import _TOKENS_A_PASS, sample
from weighted_mtp.decoding.shared_prompts import Prefix, SharedPrompts
from weighted_mtp.models.mtp import MTPForCausalLM

LETTERS = letter_tokenizer()
PROMPTS = [
    torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    for length in (3, 9, 2, 14, 6)
]
DRAWN = SamplingConfig(max_new_tokens=20, temperature=1.0, top_p=0.9, n_samples=6, seed=5, batch_size=9)


def policy(architecture: str = "llama") -> MTPForCausalLM:
    """Ends its texts after some ten tokens, each at its own time."""
    model = MTPForCausalLM.from_base(tiny_model(architecture), 4, "random")
    model.generation_config.eos_token_id = list(range(0, VOCABULARY, 10))
    return model


@pytest.fixture
def shared_by(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each pass had that shared prompts, which here may be short."""
    monkeypatch.setattr(speculative, "_SHARED_LENGTH", 1)
    rows: list[int] = []
    attend = SharedPrompts.aim

    def counted(self: SharedPrompts, count: int, device: torch.device) -> None:
        rows.append(count)
        attend(self, count, device)

    monkeypatch.setattr(SharedPrompts, "aim", counted)
    return rows


@pytest.mark.parametrize("draft", ["none", "heads"])
@pytest.mark.parametrize("architecture", ["llama", "llama_tied", "qwen2", "qwen3"])
def test_sharing_changes_no_completion(
    architecture: str, draft: str, shared_by: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, config = policy(architecture), DRAWN.model_copy(update={"draft": draft})
    found = sample(model, LETTERS, PROMPTS, config)
    assert max(shared_by) == config.batch_size
    monkeypatch.setattr(speculative, "_SHARED_BY", 1000)
    shared_by.clear()
    assert sample(model, LETTERS, PROMPTS, config) == found
    assert not shared_by


def test_prompts_that_are_read_after_heads_stopped_drafting_are_shared_as_well(
    shared_by: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = policy()
    expected = sample(model, LETTERS, PROMPTS, DRAWN.model_copy(update={"draft": "none"}))
    monkeypatch.setitem(_TOKENS_A_PASS, ("cpu", torch.float32), 4 * DRAWN.batch_size)
    monkeypatch.setattr(speculative, "_TRIED", (2, 8))
    monkeypatch.setattr("weighted_mtp.decoding.sample._UNITS", 1)  # units of several batches
    shared_by.clear()
    found = sample(model, LETTERS, PROMPTS, DRAWN)
    assert found == expected
    assert shared_by
    drafted = [len(completion.drafted) for samples in found for completion in samples]
    assert max(drafted) > 0
    assert min(drafted) == 0  # these began later


@pytest.mark.parametrize("batch_size", [1, 4, 30])
def test_the_batch_size_changes_nothing(batch_size: int, shared_by: list[int]) -> None:
    model = policy()
    expected = sample(model, LETTERS, PROMPTS, DRAWN)
    assert sample(model, LETTERS, PROMPTS, DRAWN.model_copy(update={"batch_size": batch_size})) == expected
    assert shared_by


def test_the_weights_of_large_models_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    model = policy()
    expected = sample(model, LETTERS, PROMPTS, DRAWN)
    monkeypatch.setattr(lean, "_MOST_COPIED", 0)
    assert sample(model, LETTERS, PROMPTS, DRAWN) == expected
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    decoder = lean.LeanDecoder(model)
    for layer in (*decoder._layers, *decoder._drafting):
        used = [*layer.into_attention.weights, layer.out_of_attention, *layer.into_mlp.weights, layer.out_of_mlp]
        assert all(weight.untyped_storage().data_ptr() in own for weight in used)


def test_short_prompts_and_few_samples_are_not_shared(shared_by: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model = policy()
    sample(model, LETTERS, [*PROMPTS, [7]], DRAWN.model_copy(update={"batch_size": 36}))  # all in one unit
    sample(model, LETTERS, PROMPTS, DRAWN.model_copy(update={"n_samples": 3}))
    monkeypatch.setattr(speculative, "_SHARED_LENGTH", 10)
    sample(model, LETTERS, PROMPTS, DRAWN.model_copy(update={"batch_size": 36}))
    assert not shared_by


@pytest.mark.parametrize("architecture", ["mistral", "gemma3"])
def test_where_tokens_see_a_window_or_modules_are_called_nothing_is_shared(
    architecture: str, shared_by: list[int]
) -> None:
    model: PreTrainedModel = policy(architecture)
    assert not Forward(model, drafts=False).shares_prompts
    sample(model, LETTERS, PROMPTS, DRAWN)
    assert not shared_by


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("heads", [2, 6], ids=["one query a key", "three"])
def test_attention_over_two_parts_is_attention_over_both(n: int, heads: int) -> None:
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw) * 3

    prompts = [Prefix(length, {0: random(2, length, 8)}, {0: random(2, length, 8)}) for length in (5, 1, 11)]
    of_row = [prompts[i] for i in (0, 2, 0, 1, 2, 2)]
    shared = SharedPrompts()
    for row, prompt in enumerate(of_row):
        shared.start(row, prompt)
    shared.aim(len(of_row), torch.device("cpu"))
    queries, keys, values = random(6, heads, n, 8), random(6, 2, 4, 8), random(6, 2, 4, 8)
    added = torch.zeros(6, 1, n, 4).masked_fill_(torch.arange(4) > torch.arange(n)[:, None] + 1, -torch.inf)
    found = shared.attend(0, queries, keys, values, added)
    for row, prompt in enumerate(of_row):
        together = [
            torch.cat([a, b], dim=1)[None] for a, b in ((prompt.keys[0], keys[row]), (prompt.values[0], values[row]))
        ]
        mask = torch.cat([torch.zeros(n, prompt.length), added[row, 0]], dim=1)
        expected = scaled_dot_product_attention(queries[row, None], *together, attn_mask=mask, enable_gqa=True)
        torch.testing.assert_close(found[row], expected[0])
