"""Micro models: sizes, and weights cut out of a larger model."""

import pytest
import torch
from tiny_models import ARCHITECTURES, GROUPED, byte_tokenizer, padded_batch, tiny_model
from transformers import AutoModelForCausalLM, LlamaConfig

from weighted_mtp.errors import UserError
from weighted_mtp.models.micro import MicroSize, micro_from, random_micro
from weighted_mtp.models.mtp import MTPForCausalLM

HALF = MicroSize(
    hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64
)
WHOLE = MicroSize(
    hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=64
)
CUTTABLE = sorted(set(ARCHITECTURES) - {"phi"})


@pytest.mark.parametrize("heads", [None, 1, 3])
def test_a_random_micro_model_has_the_heads_that_were_asked_for(heads: int | None) -> None:
    model = random_micro(HALF, byte_tokenizer(), heads)
    assert isinstance(model, MTPForCausalLM) == (heads is not None)
    assert model.config.get_text_config().hidden_size == 16
    if heads is not None:
        assert model.head_states(padded_batch()[0]).shape == (heads, 2, 11, 16)


@pytest.mark.parametrize("architecture", CUTTABLE)
def test_a_cut_of_the_whole_size_is_the_base_itself(architecture: str) -> None:
    base = tiny_model(architecture)
    ids, mask = padded_batch()
    with torch.no_grad():
        expected = base(input_ids=ids, attention_mask=mask).logits
        assert torch.equal(micro_from(base, WHOLE).eval()(input_ids=ids, attention_mask=mask).logits, expected)


def test_a_cut_policy_takes_each_head_from_the_base_policys_head() -> None:
    policy = MTPForCausalLM.from_base(tiny_model(), 3, "random")
    small = micro_from(policy, HALF)
    assert isinstance(small, MTPForCausalLM)
    for cut, whole in zip(small.heads.heads, policy.heads.heads, strict=True):
        assert torch.equal(cut.mlp.gate_proj.weight, whole.mlp.gate_proj.weight[::2, ::2])
    assert torch.equal(small.layers[0].mlp.up_proj.weight, policy.layers[0].mlp.up_proj.weight[::2, ::2])


def test_rotary_pairs_keep_their_frequency() -> None:
    """A base whose unselected channels are zero computes attention scores that the cut model reproduces."""
    sizes = {**GROUPED, "num_key_value_heads": 4, "head_dim": 8, "hidden_size": 32}
    base = AutoModelForCausalLM.from_config(LlamaConfig(**sizes)).eval()
    small = micro_from(base, HALF).eval()
    wide, narrow = base.model.rotary_emb.inv_freq, small.model.rotary_emb.inv_freq
    assert torch.allclose(wide[::2], narrow)
    attention, cut = base.model.layers[0].self_attn, small.model.layers[0].self_attn
    rows = [8 * head + channel for head in range(4) for channel in (0, 2, 4, 6)]
    assert torch.equal(cut.q_proj.weight, attention.q_proj.weight[rows][:, ::2])
    assert torch.equal(cut.o_proj.weight, attention.o_proj.weight[::2][:, rows])


def test_a_cut_keeps_the_stored_precision() -> None:
    assert micro_from(tiny_model().to(torch.bfloat16), HALF).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 64}, "hidden_size=64 is more than the base's 32"),
        ({"num_hidden_layers": 9}, "num_hidden_layers=9 is more"),
        ({"num_attention_heads": 2, "hidden_size": 32}, "2 heads of 16 channels do not fit"),
    ],
)
def test_a_size_that_does_not_fit_is_refused(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        micro_from(tiny_model(), HALF.model_copy(update=change))


def test_a_partly_rotating_base_is_refused() -> None:
    with pytest.raises(UserError, match="rotates only part"):
        micro_from(tiny_model("phi"), HALF)
