"""Drafts change no token: whatever heads propose, however many are right, and wherever a completion ends."""

import copy
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from scipy.stats import chisquare
from tiny_models import ARCHITECTURES, GROUPED, VOCABULARY, letter_tokenizer, tiny_model
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, PreTrainedModel

from weighted_mtp.decoding.config import SamplingConfig
from weighted_mtp.decoding.forward import Forward, takes_slots
from weighted_mtp.decoding.lean import lean
from weighted_mtp.decoding.rows import Choice, Completion, Row, Text, uniform_draws
from weighted_mtp.decoding.sample import _TOKENS_A_PASS, drafts, sample
from weighted_mtp.decoding.speculative import _Window, decode
from weighted_mtp.errors import UserError
from weighted_mtp.models.mtp import MTPForCausalLM

LETTERS = letter_tokenizer()
PROMPTS = [
    torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    for length in (3, 9, 1, 14, 6)
]
GREEDY = SamplingConfig(max_new_tokens=20, batch_size=3)
DRAWN = SamplingConfig(max_new_tokens=20, temperature=1.0, top_p=0.9, n_samples=3, seed=5, batch_size=4)


def policy(architecture: str = "llama", heads: int = 4) -> MTPForCausalLM:
    """Ends its texts after some ten tokens, each at its own time."""
    model = MTPForCausalLM.from_base(tiny_model(architecture), heads, "random")
    model.generation_config.eos_token_id = list(range(0, VOCABULARY, 10))
    return model


def drafting(config: SamplingConfig, draft: str = "heads") -> SamplingConfig:
    return config.model_copy(update={"draft": draft})


Told = dict[tuple[int, int], list[int]]


@contextmanager
def prompted(completions: Told, right: float) -> Iterator[list[int]]:
    """Drafts are what the completions go on with, each right with this probability; counts of those accepted."""
    draws, accepted = random.Random(0), []
    accept = _Window._accept

    def told(self: _Window, place: int, found: list[int], drafts: list[int]) -> list[int]:
        new = accept(self, place, found, drafts)
        accepted.append(len(new) - 1)
        row = self.rows[place]
        coming = completions[row.prompt, row.sample][len(row.tokens) + len(new) :] + [0] * len(drafts)
        self._ids[place][1:] = [t if draws.random() < right else 7 for t in coming[: len(drafts)]]
        return new

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Window, "_accept", told)
        yield accepted


def tokens_of(completions: list[list[Completion]]) -> Told:
    """With an end token behind texts that had one: any of the model's does, since drafts of it are not compared."""
    return {
        (p, s): LETTERS.convert_tokens_to_ids(list(completion.text))
        for p, samples in enumerate(completions)
        for s, completion in enumerate(samples)
    }


@pytest.mark.parametrize("config", [GREEDY, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_drafts_change_no_token(architecture: str, config: SamplingConfig) -> None:
    model = policy(architecture)
    expected = sample(model, LETTERS, PROMPTS, drafting(config, "none"))
    assert sample(model, LETTERS, PROMPTS, drafting(config)) == expected
    with prompted(tokens_of(expected), right=0.8) as accepted:
        assert sample(model, LETTERS, PROMPTS, drafting(config)) == expected
    assert {0, 3} <= set(accepted)


@pytest.mark.parametrize("heads", [2, 3, 8])
@pytest.mark.parametrize("right", [0.0, 0.5, 1.0])
def test_any_number_of_heads_and_of_right_drafts(heads: int, right: float) -> None:
    model = policy(heads=heads)
    expected = sample(model, LETTERS, PROMPTS, drafting(DRAWN, "none"))
    with prompted(tokens_of(expected), right):
        found = sample(model, LETTERS, PROMPTS, drafting(DRAWN))
    assert found == expected
    passes = [(c.n_passes, c.n_tokens) for samples in found for c in samples]
    assert all(p <= t <= heads * p for p, t in passes)
    if right == 0:
        assert sum(p for p, _ in passes) > 0.9 * sum(t for _, t in passes)  # the heads' own first drafts may be right


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_the_batch_size_changes_nothing(batch_size: int) -> None:
    model = policy()
    expected = sample(model, LETTERS, PROMPTS, drafting(DRAWN, "none"))
    with prompted(tokens_of(expected), right=0.6):
        config = drafting(DRAWN).model_copy(update={"batch_size": batch_size})
        assert sample(model, LETTERS, PROMPTS, config) == expected


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_each_head_drafts_from_what_was_accepted_and_nothing_else(architecture: str) -> None:
    """What the heads propose from their caches is what they say of the whole text without a cache."""
    model = policy(architecture)
    told = tokens_of(sample(model, LETTERS, PROMPTS, drafting(GREEDY, "none")))
    accept, accepted = _Window._accept, set()

    def compared(self: _Window, place: int, found: list[int], drafts: list[int]) -> list[int]:
        new, row = accept(self, place, found, drafts), self.rows[place]
        accepted.add(len(new))
        read = [*row.prompt_ids, *row.tokens, *new[:-1]]
        if len(row.tokens) + len(new) < row.budget:
            states = model.head_states(torch.tensor([read]))[1:, 0, -1]
            assert model.unembed(states).argmax(dim=-1).tolist() == drafts
        coming = told[row.prompt, row.sample][len(row.tokens) + len(new) :]
        if place != 1:  # right drafts, so that several tokens are accepted, of some rows
            self._ids[place][1 : 1 + len(coming[:3])] = coming[:3]
        return new

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Window, "_accept", compared)
        sample(model, LETTERS, PROMPTS, drafting(GREEDY))
    assert {1, 4} <= accepted


def test_a_text_that_ends_within_accepted_drafts_ends_there() -> None:
    model = policy()
    config = drafting(GREEDY).model_copy(update={"max_new_tokens": 40})
    expected = sample(model, LETTERS, PROMPTS, drafting(config, "none"))
    assert {c.finished for (c,) in expected} >= {"eos"}
    beyond = {key: [*tokens, 10, 20, 30, 40] for key, tokens in tokens_of(expected).items()}  # all of them end texts
    with prompted(beyond, right=1.0):
        assert sample(model, LETTERS, PROMPTS, config) == expected


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_stop_strings_within_accepted_drafts_end_where_they_would_without(temperature: float) -> None:
    model = MTPForCausalLM.from_base(tiny_model(), 4, "random")
    base = SamplingConfig(max_new_tokens=30, temperature=temperature)
    whole = sample(model, LETTERS, PROMPTS, drafting(base, "none"))
    stop = tuple(completion.text[at : at + 2] for at, (completion,) in zip((9, 4, 7, 11, 6), whole, strict=True))
    config = base.model_copy(update={"stop": stop})
    expected = sample(model, LETTERS, PROMPTS, drafting(config, "none"))
    assert all(c.finished == "stop" for (c,) in expected)
    with prompted(tokens_of(whole), right=1.0):
        assert sample(model, LETTERS, PROMPTS, drafting(config)) == expected


def test_drafts_beyond_the_context_and_the_budget_are_not_used() -> None:
    model = MTPForCausalLM.from_base(tiny_model("phi"), 4, "random")
    prompts = [[1] * 60, [2] * 63, [3] * 30]
    config = SamplingConfig(max_new_tokens=10, temperature=1.0)
    expected = sample(model, LETTERS, prompts, drafting(config, "none"))
    with prompted(tokens_of(expected), right=1.0):
        found = sample(model, LETTERS, prompts, drafting(config))
    assert found == expected
    assert [c.n_tokens for (c,) in found] == [4, 1, 10]  # max_position_embeddings is 64


@torch.no_grad()
def test_drawn_texts_follow_head_1s_distribution() -> None:
    """χ² over all texts of three tokens that a vocabulary of five makes."""
    config = LlamaConfig(**{**GROUPED, "vocab_size": 5, "eos_token_id": None, "initializer_range": 0.3})
    torch.manual_seed(2)
    model = MTPForCausalLM.from_base(AutoModelForCausalLM.from_config(config).eval(), 3, "random")
    prompt, n = [1, 3], 4000
    texts = list(itertools.product(range(5), repeat=3))
    log_p = model(torch.tensor([[*prompt, *text] for text in texts])).logits[:, 1:-1].log_softmax(-1)
    expected = log_p.gather(2, torch.tensor(texts)[..., None]).sum((1, 2)).exp() * n
    rows = [Row(0, s, "p", prompt, 3) for s in range(n)]
    for row in rows:
        row.draws = uniform_draws(row, seed=3)
    forward = Forward(model, drafts=True)
    assert len(list(decode(forward, rows, 1000, Choice(1.0, 1.0), Text(LETTERS, (), set())))) == n
    counts = Counter(tuple(row.tokens) for row in rows)
    found = torch.tensor([counts[text] for text in texts])
    common = expected >= 5
    observed = [*found[common].tolist(), found[~common].sum().item()]
    assert chisquare(observed, [*expected[common].tolist(), expected[~common].sum().item()], sum_check=False)[1] > 1e-3
    assert sum(row.n_passes for row in rows) < 2.5 * n  # drafts were accepted


def test_in_bf16_drafts_change_hardly_a_token() -> None:
    """Passes of several tokens round otherwise than passes of one; in bf16 that decides now and then."""
    model = policy().to(torch.bfloat16)
    expected = sample(model, LETTERS, PROMPTS, drafting(DRAWN, "none"))
    with prompted(tokens_of(expected), right=0.7):
        found = sample(model, LETTERS, PROMPTS, drafting(DRAWN))
    same = [a == b for x, y in zip(found, expected, strict=True) for a, b in zip(x, y, strict=True)]
    assert sum(same) >= 0.8 * len(same)


def test_a_prompt_is_read_once_for_all_its_samples() -> None:
    read: list[int] = []
    prefill = Forward.prefill

    def counted(self: Forward, prompts: list[list[int]]) -> list:
        read.extend(len(prompt) for prompt in prompts)
        return prefill(self, prompts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Forward, "prefill", counted)
        patch.setattr("weighted_mtp.decoding.forward.takes_slots", lambda forward: True)
        sample(policy(), LETTERS, PROMPTS, DRAWN.model_copy(update={"batch_size": 16}))
    assert sorted(read) == sorted(len(prompt) for prompt in PROMPTS)


@pytest.mark.parametrize("config", [GREEDY, drafting(GREEDY, "heads")], ids=["plain", "drafting"])
def test_a_finished_row_is_replaced_at_once(config: SamplingConfig) -> None:
    model, widths = policy(), []
    rows = [Row(p, 0, "p", PROMPTS[p % 5], 20) for p in range(20)]
    window = _Window.advance

    def noted(self: _Window) -> list[list[int]]:
        widths.append(len(self.rows))
        return window(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Window, "advance", noted)
        text = Text(LETTERS, (), set(range(0, VOCABULARY, 10)))
        done = list(decode(Forward(model, config.draft == "heads"), rows, 4, Choice(0.0, 1.0), text))
    assert len(done) == 20
    full = widths.index(next((w for w in widths if w < 4), 0))
    assert widths[:full] == [4] * full
    assert widths[full:] == sorted(widths[full:], reverse=True)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_architecture_computes_over_slots(architecture: str, dtype: torch.dtype) -> None:
    assert takes_slots(Forward(policy(architecture).to(dtype), drafts=True))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_small_models_of_common_families_are_decoded_without_their_modules(architecture: str) -> None:
    model = policy(architecture)
    found = lean(model)
    assert (found is not None) == (architecture in ("llama", "llama_tied", "qwen2", "qwen3", "mistral"))
    if found is not None:
        expected = sample(model, LETTERS, PROMPTS, drafting(DRAWN))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("weighted_mtp.decoding.forward.lean", lambda model: None)
            assert sample(model, LETTERS, PROMPTS, drafting(DRAWN)) == expected


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("architecture", ["llama_tied", "qwen2", "qwen3"])
def test_large_models_whose_weights_are_not_copied_write_the_same(architecture: str, batch_size: int) -> None:
    model = policy(architecture)
    config = drafting(DRAWN).model_copy(update={"batch_size": batch_size})
    expected = sample(model, LETTERS, PROMPTS, drafting(DRAWN, "none"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("weighted_mtp.decoding.lean._MOST_COPIED", 0)
        assert sample(model, LETTERS, PROMPTS, config) == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model.config, "hidden_act", "gelu"),
        lambda model: setattr(model.config, "rope_parameters", {"rope_type": "dynamic", "rope_theta": 1e4}),
        lambda model: setattr(model.model.layers[0].mlp, "up_proj", torch.nn.Identity()),
    ],
    ids=["activation", "rope", "another module"],
)
def test_a_model_that_is_built_otherwise_keeps_its_modules(change: Callable[[PreTrainedModel], None]) -> None:
    model = copy.deepcopy(tiny_model())  # with a configuration of its own
    change(model)
    assert lean(model) is None


def test_other_models_do_as_well_and_those_that_cannot_are_found_out() -> None:
    config = GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=VOCABULARY, n_positions=64)
    model = GPT2LMHeadModel(config).eval()
    assert takes_slots(Forward(model, drafts=False))
    model.config._attn_implementation = "flex_attention"
    assert not takes_slots(Forward(model, drafts=False))


def test_without_slots_a_batch_is_padded_and_drafts_are_refused_by_name() -> None:
    model = policy()
    expected = sample(model, LETTERS, PROMPTS, drafting(DRAWN, "none"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("weighted_mtp.decoding.sample.over_slots", lambda model, drafts: None)
        assert sample(model, LETTERS, PROMPTS, DRAWN) == expected
        with pytest.raises(UserError, match="draft=heads: LlamaForCausalLM does not keep"):
            sample(model, LETTERS, PROMPTS, drafting(DRAWN))


def test_drafts_of_a_model_without_further_heads_are_refused() -> None:
    with pytest.raises(UserError, match="draft=heads has no effect: the model has no prediction heads"):
        sample(tiny_model(), LETTERS, PROMPTS, drafting(GREEDY))
    with pytest.raises(UserError, match="has no effect: the model has one head"):
        sample(policy(heads=1), LETTERS, PROMPTS, drafting(GREEDY))


@pytest.mark.parametrize(
    ("dtype", "batch_size", "expected"),
    [(torch.float32, 1, True), (torch.float32, 2, False), (torch.bfloat16, 64, True), (torch.bfloat16, 65, False)],
)
def test_heads_draft_by_default_where_a_pass_is_small(dtype: torch.dtype, batch_size: int, expected: bool) -> None:
    config = SamplingConfig(batch_size=batch_size)
    assert drafts(policy().to(dtype), config) == expected  # four heads; 4 or 256 tokens a pass on a CPU
    assert not drafts(policy(heads=1), config)


@pytest.mark.parametrize("config", [GREEDY, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("right", [0.0, 0.1, 0.9])
def test_by_default_heads_stop_drafting_where_too_few_drafts_are_right(
    architecture: str, config: SamplingConfig, right: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = policy(architecture)
    monkeypatch.setitem(_TOKENS_A_PASS, ("cpu", torch.float32), 16)
    monkeypatch.setattr("weighted_mtp.decoding.speculative._TRIED", (4, 8))
    prompts = PROMPTS * 3
    expected = sample(model, LETTERS, prompts, drafting(config, "none"))
    with prompted(tokens_of(expected), right):
        found = sample(model, LETTERS, prompts, config)
    assert found == expected
    completions = [completion for samples in found for completion in samples]
    passes, drafted = sum(c.n_passes for c in completions), sum(len(c.drafted) for c in completions)
    assert 0 < drafted <= passes
    assert (drafted < passes / 2) == (right < 0.5)
