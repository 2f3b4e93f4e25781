import dataclasses

import pytest
import torch
from pydantic import ValidationError
from tiny_models import ARCHITECTURES, END, VOCABULARY, byte_tokenizer, letter_tokenizer, tiny_model
from transformers import PreTrainedModel, TopPLogitsWarper

from weighted_mtp.decoding.config import SamplingConfig
from weighted_mtp.decoding.rows import NOT_FINITE, Choice, Completion, nucleus
from weighted_mtp.decoding.sample import sample, sample_batches
from weighted_mtp.errors import UserError
from weighted_mtp.models.mtp import MTPForCausalLM

LETTERS = letter_tokenizer()  # one letter a token, so that equal texts are equal tokens
PROMPTS = [
    torch.randint(0, END, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    for length in (3, 9, 1, 14, 6)
]
DRAWN = SamplingConfig(max_new_tokens=20, temperature=1.0, top_p=0.9, n_samples=3, seed=5)


def ending_model(architecture: str = "llama") -> PreTrainedModel:
    """A model that ends its texts after some ten tokens, each at its own time."""
    model = tiny_model(architecture)
    model.generation_config.eos_token_id = list(range(0, VOCABULARY, 10))
    return model


class Scripted(torch.nn.Module):
    """Stands in for a model whose greedy completion is known: after n prompt tokens it says `script` and then ends."""

    def __init__(self, script: list[int], prompt_length: int) -> None:
        super().__init__()
        self.answers = [*script, END]
        self.prompt_length = prompt_length
        plain = tiny_model()
        self.config, self.generation_config, self.device = plain.config, plain.generation_config, plain.device
        self.filler = plain

    def forward(self, position_ids: torch.Tensor, **inputs: object) -> object:
        output = self.filler(position_ids=position_ids, **inputs)
        said = position_ids[:, -1] - self.prompt_length + 1
        answers = torch.tensor([self.answers[min(int(i), len(self.answers) - 1)] for i in said])
        output.logits = torch.nn.functional.one_hot(answers, VOCABULARY)[:, None].float()
        return output


def say(text: str, prompt: str = "def", **options: object) -> Completion:
    """The sampler's completion where the model says `text` byte by byte."""
    tokenizer = byte_tokenizer()
    prompt_ids = tokenizer.encode(prompt)
    model = Scripted(tokenizer.encode(text), len(prompt_ids))
    return sample(model, tokenizer, [prompt_ids], SamplingConfig(**options))[0][0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_in_a_batch_equals_generate_one_at_a_time(architecture: str) -> None:
    model = tiny_model(architecture)
    completions = sample(model, LETTERS, PROMPTS, SamplingConfig(max_new_tokens=15, batch_size=5))
    for prompt, (completion,) in zip(PROMPTS, completions, strict=True):
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        out = model.generate(ids, attention_mask=mask, max_new_tokens=15, do_sample=False, pad_token_id=0)[0]
        assert completion.text == LETTERS.decode(out[len(prompt) :], skip_special_tokens=True)
        assert completion.n_tokens == len(out) - len(prompt)


@pytest.mark.parametrize("config", [SamplingConfig(max_new_tokens=20), DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("batch_size", [1, 2, 7, 64])
def test_the_batch_size_changes_nothing(config: SamplingConfig, batch_size: int) -> None:
    model = ending_model()
    expected = sample(model, LETTERS, PROMPTS, config.model_copy(update={"batch_size": 4}))
    assert sample(model, LETTERS, PROMPTS, config.model_copy(update={"batch_size": batch_size})) == expected


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma3"])
def test_rows_that_finish_and_leave_change_nothing_for_the_others(architecture: str) -> None:
    model = ending_model(architecture)
    config = SamplingConfig(max_new_tokens=30, batch_size=5)
    together = sample(model, LETTERS, PROMPTS, config)
    assert len({completion.n_tokens for (completion,) in together}) > 1  # else no row has left early
    assert together == [sample(model, LETTERS, [prompt], config)[0] for prompt in PROMPTS]


@pytest.mark.parametrize("skip", [0, 1, 3, 4, 9])
def test_skipped_batches_change_nothing_in_those_that_follow(skip: int) -> None:
    config = DRAWN.model_copy(update={"batch_size": 4})  # 15 completions: the last batch is smaller
    whole = list(sample_batches(ending_model(), LETTERS, PROMPTS, config))
    assert [len(batch) for batch in whole] == [4, 4, 4, 3]
    assert {(drawn.prompt, drawn.sample) for batch in whole for drawn in batch} == {
        (p, s) for p in range(5) for s in range(3)
    }
    assert list(sample_batches(ending_model(), LETTERS, PROMPTS, config, range(skip, len(whole)))) == whole[skip:]


def test_a_policy_samples_what_its_base_samples() -> None:
    expected = sample(tiny_model(), LETTERS, PROMPTS, DRAWN)
    assert sample(MTPForCausalLM.from_base(tiny_model(), 3, "random"), LETTERS, PROMPTS, DRAWN) == expected


def test_samples_of_a_prompt_differ_and_another_seed_draws_others() -> None:
    completions = sample(tiny_model(), LETTERS, PROMPTS, DRAWN)
    assert all(len({c.text for c in samples}) == 3 for samples in completions)
    others = sample(tiny_model(), LETTERS, PROMPTS, DRAWN.model_copy(update={"seed": 6}))
    assert all(a.text != b.text for x, y in zip(completions, others, strict=True) for a, b in zip(x, y, strict=True))


def test_the_same_prompt_twice_is_sampled_independently() -> None:
    first, second = sample(tiny_model(), LETTERS, [PROMPTS[0], PROMPTS[0]], DRAWN)
    assert first != second


def test_drawn_tokens_follow_the_models_distribution() -> None:
    model = tiny_model()
    n = 4000
    config = SamplingConfig(max_new_tokens=1, temperature=0.7, n_samples=n, batch_size=1000)
    letters = [completion.text for completion in sample(model, LETTERS, [PROMPTS[1]], config)[0]]
    probabilities = torch.softmax(model(torch.tensor([PROMPTS[1]])).logits[0, -1] / 0.7, dim=-1)
    for token in probabilities.topk(5).indices.tolist():
        p = probabilities[token].item()
        error = (p * (1 - p) / n) ** 0.5
        assert letters.count(LETTERS.decode([token])) / n == pytest.approx(p, abs=5 * error)


def test_every_token_of_the_nucleus_and_no_other_is_drawn() -> None:
    model = tiny_model()
    config = SamplingConfig(max_new_tokens=1, temperature=1.0, top_p=0.3, n_samples=4000, batch_size=1000)
    drawn = {completion.text for completion in sample(model, LETTERS, [PROMPTS[1]], config)[0]}
    logits = model(torch.tensor([PROMPTS[1]])).logits[:, -1]
    allowed = (TopPLogitsWarper(0.3)(None, logits) > -torch.inf)[0].nonzero().flatten()
    assert drawn == {LETTERS.decode([token]) for token in allowed}


@pytest.mark.parametrize("scale", [0.0, 1.0, 20.0], ids=["flat", "normal", "peaked"])
def test_the_nucleus_is_transformers_own(scale: float) -> None:
    logits = torch.randn(4, 3000, generator=torch.Generator().manual_seed(0)) * scale + torch.arange(3000) * 1e-6
    expected = TopPLogitsWarper(0.9)(None, logits) > -torch.inf
    assert torch.equal(nucleus(torch.softmax(logits, -1), 0.9) > 0, expected)


@pytest.mark.parametrize("top_p", [1.0, 0.9])
@pytest.mark.parametrize("vocabulary", [4097, 8192])
def test_a_large_vocabulary_is_drawn_from_as_by_one_cumulative_sum(vocabulary: int, top_p: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(64, 2, vocabulary, generator=generator)
    logits[:, :, :300], logits[:, :, -300:] = -torch.inf, -torch.inf  # whole blocks at either end
    draws = torch.rand(64, 2, generator=generator, dtype=torch.float64)
    draws[0], draws[1] = 0.0, 1 - 2**-53
    probabilities = torch.softmax(logits / 0.8, -1)
    ends = (probabilities if top_p == 1 else nucleus(probabilities, top_p)).double().cumsum(-1)
    expected = torch.searchsorted(ends, draws[..., None] * ends[..., -1:], right=True).squeeze(-1)
    found = Choice(0.8, top_p)(logits, draws)
    assert (found == expected).float().mean() > 0.98  # sums of blocks are rounded to fp32
    assert probabilities.gather(-1, found[..., None]).all()


def test_a_large_vocabulary_with_a_logit_that_is_not_finite_gives_no_token() -> None:
    logits = torch.zeros(3, 5000)
    logits[0, 7], logits[2, 4999] = torch.nan, torch.inf
    found = Choice(1.0, 1.0)(logits, torch.full((3,), 0.5001, dtype=torch.float64))
    assert found.tolist() == [NOT_FINITE, 2500, NOT_FINITE]


def test_the_end_token_ends_and_is_not_in_the_text() -> None:
    assert say(" f(x)") == Completion(" f(x)", 6, "eos")


def test_an_end_token_of_the_models_generation_settings_ends_too() -> None:
    model = Scripted([65, 66, 67], 1)
    model.generation_config.eos_token_id = [66, END]
    assert sample(model, LETTERS, [[1]], SamplingConfig())[0][0].finished == "eos"
    assert sample(model, LETTERS, [[1]], SamplingConfig())[0][0].n_tokens == 2


def test_a_stop_string_over_several_tokens_ends_and_is_not_in_the_text() -> None:
    assert say(" f(x):\n  return x\nprint(f)", stop=["\nprint", "\nclass"]) == Completion(
        " f(x):\n  return x", len(" f(x):\n  return x\nprint"), "stop"
    )


def test_the_first_of_several_stop_strings_in_one_token_counts() -> None:
    assert say("ab--cd", stop=["d", "--", "-c"]).text == "ab"


def test_a_stop_string_of_characters_over_several_bytes_is_found() -> None:
    assert say("값은 é입니다. 끝", stop=["입니다"]).text == "값은 é"


def test_a_stop_string_in_the_prompt_does_not_end() -> None:
    assert say(" f()", prompt="class A\n", stop=["\n", "class"]) == Completion(" f()", 5, "eos")


def test_a_stop_string_that_begins_in_the_prompt_does_not_end() -> None:
    assert say("nt(1)", prompt="pri", stop=["print"]).text == "nt(1)"


def test_the_longest_completion_is_cut_at_max_new_tokens() -> None:
    assert say("0123456789", max_new_tokens=4) == Completion("0123", 4, "length")


def test_a_leading_space_is_kept() -> None:
    assert say("    return 1", prompt="def f():\n").text == "    return 1"


def test_completions_stay_within_the_models_context() -> None:
    config = SamplingConfig(max_new_tokens=50, temperature=1.0)
    ((completion,),) = sample(tiny_model(), LETTERS, [[1] * 60], config)
    assert completion.n_tokens == 4  # max_position_embeddings is 64
    assert completion.finished == "length"


def test_a_prompt_as_long_as_the_context_is_refused() -> None:
    with pytest.raises(UserError, match="prompt 1: 64 tokens do not fit the model's context of 64"):
        sample(tiny_model(), LETTERS, [[1], [1] * 64], SamplingConfig())


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.9}])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_not_finite_end_sampling_with_the_prompts_name(value: float, options: dict[str, float]) -> None:
    class Diverged(Scripted):
        def forward(self, position_ids: torch.Tensor, **inputs: object) -> object:
            output = super().forward(position_ids=position_ids, **inputs)
            late = position_ids[:, -1] >= 4
            output.logits[late] = torch.full_like(output.logits[late], value)
            return output

    model, prompts = Diverged([97] * 9, 3), [[97], [97, 98, 99]]
    config = SamplingConfig(max_new_tokens=9, **options)
    with pytest.raises(UserError, match="HumanEval/1: the model's logits are not finite after 2 tokens"):
        sample(model, LETTERS, prompts, config, names=["HumanEval/0", "HumanEval/1"])
    with pytest.raises(UserError, match="prompt 1: the model's logits are not finite"):
        sample(model, LETTERS, prompts, config)


def test_one_logit_that_is_nan_is_enough_and_one_that_is_minus_infinity_is_allowed() -> None:
    class Masked(Scripted):
        def forward(self, position_ids: torch.Tensor, **inputs: object) -> object:
            output = super().forward(position_ids=position_ids, **inputs)
            output.logits[..., 5] = self.fifth
            return output

    model = Masked([97, 98], 1)
    model.fifth = float("-inf")
    assert sample(model, LETTERS, [[97]], SamplingConfig(max_new_tokens=9))[0][0].n_tokens == 3
    model.fifth = float("nan")
    with pytest.raises(UserError, match="not finite"):
        sample(model, LETTERS, [[97]], SamplingConfig(max_new_tokens=9))


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(UserError, match="prompt 0: empty"):
        sample(tiny_model(), LETTERS, [[]], SamplingConfig())


def test_progress_counts_every_completion_once() -> None:
    counts: list[int] = []
    sample(tiny_model(), LETTERS, PROMPTS, DRAWN, counts.append)
    assert sum(counts) == 15


def test_dropout_is_off_meanwhile_and_the_mode_is_restored() -> None:
    model = tiny_model("phi")
    expected = sample(model, LETTERS, PROMPTS, DRAWN)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    model.train()
    assert sample(model, LETTERS, PROMPTS, DRAWN) == expected
    assert model.training


@pytest.mark.parametrize(
    ("options", "message"),
    [({"top_p": 0.9}, "top_p=0.9 has no effect"), ({"n_samples": 2}, "n_samples=2"), ({"stop": [""]}, "empty string")],
)
def test_an_option_without_effect_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SamplingConfig(**options)


def test_a_completion_is_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        say("x").text = "y"  # type: ignore[misc]
