import copy
import json
from pathlib import Path

import pytest
import torch
from tiny_models import ARCHITECTURES, VOCABULARY, byte_tokenizer, padded_batch, tiny_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BloomConfig,
    CohereConfig,
    FalconConfig,
    GPT2Config,
    GPTBigCodeConfig,
    LlamaConfig,
    MptConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

import weighted_mtp.models
from weighted_mtp.errors import UserError
from weighted_mtp.models.checkpoint import load_policy
from weighted_mtp.models.mtp import MTPConfig, MTPForCausalLM, decoder_layers

HEADS = 3
OTHERS = {"vocab_size": VOCABULARY, "hidden_size": 32, "bos_token_id": None, "eos_token_id": 256}


def policy_and_base(architecture: str = "llama") -> tuple[MTPForCausalLM, PreTrainedModel]:
    """A policy with random extra heads, and the base as it was before it got them."""
    base = tiny_model(architecture)
    return MTPForCausalLM.from_base(copy.deepcopy(base), HEADS, "random"), base


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved policy with its tokenizer."""
    policy, _ = policy_and_base()
    policy.save_pretrained(tmp_path / "policy")
    byte_tokenizer().save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


def set_config(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("padded", [False, True])
def test_forward_is_the_base_model_bit_for_bit(architecture: str, padded: bool) -> None:
    policy, base = policy_and_base(architecture)
    ids, mask = padded_batch()
    inputs = {"input_ids": ids, "attention_mask": mask if padded else None}
    assert torch.equal(policy(**inputs).logits, base(**inputs).logits)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_generate_with_cache_gives_the_base_models_tokens(architecture: str) -> None:
    policy, base = policy_and_base(architecture)
    ids, _ = padded_batch()
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(policy.generate(ids, **options), base.generate(ids, **options))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_head_1_of_head_states_is_the_base_decoders_output_bit_for_bit(architecture: str) -> None:
    policy, base = policy_and_base(architecture)
    ids, mask = padded_batch()
    states = policy.head_states(ids, mask)
    assert states.shape == (HEADS, *ids.shape, 32)
    assert torch.equal(states[0], base.get_decoder()(input_ids=ids, attention_mask=mask).last_hidden_state)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_on_the_right_needs_no_mask(architecture: str) -> None:
    policy, _ = policy_and_base(architecture)
    ids, mask = padded_batch()
    for states in (policy.head_states, lambda *inputs: policy.next_token_states(*inputs)[None]):
        assert torch.equal(states(ids)[:, mask], states(ids, mask)[:, mask])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_unembed_of_head_1_is_the_base_models_logits_bit_for_bit(architecture: str) -> None:
    policy, base = policy_and_base(architecture)
    ids, mask = padded_batch()
    expected = base(input_ids=ids, attention_mask=mask).logits
    assert torch.equal(policy.unembed(policy.head_states(ids, mask)[0]), expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_extra_head_computes_what_the_base_would_with_it_as_last_layer(architecture: str) -> None:
    policy, base = policy_and_base(architecture)
    decoder_layers(base)[-1].load_state_dict(policy.heads.heads[2].state_dict())
    ids, mask = padded_batch()
    expected = base.get_decoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    assert torch.equal(policy.head_states(ids, mask)[2], expected)


def test_copied_heads_all_give_head_1s_states() -> None:
    policy = MTPForCausalLM.from_base(tiny_model(), HEADS, "copy")
    ids, mask = padded_batch()
    states = policy.head_states(ids, mask)
    assert torch.equal(states[1], states[0])
    assert torch.equal(states[2], states[0])


def test_random_heads_are_drawn_by_the_bases_initialisation_and_independently() -> None:
    base = tiny_model()
    policy = MTPForCausalLM.from_base(base, HEADS, "random")
    first, second, third = (head.mlp.up_proj.weight for head in policy.heads.heads)
    assert second.std().item() == pytest.approx(base.config.initializer_range, rel=0.1)
    assert not torch.equal(second, first)
    assert not torch.equal(second, third)
    assert torch.equal(policy.heads.heads[1].input_layernorm.weight, torch.ones(32))


def test_a_policy_built_from_its_config_has_independent_heads() -> None:
    policy = MTPForCausalLM(MTPConfig(base_config=LlamaConfig(**ARCHITECTURES["llama"].to_dict()), n_future_tokens=2))
    first, second = (head.mlp.up_proj.weight for head in policy.heads.heads)
    assert not torch.equal(first, second)


def test_one_head_is_allowed_and_adds_no_parameters() -> None:
    base = tiny_model()
    count = base.num_parameters()
    policy = MTPForCausalLM.from_base(base, 1)
    ids, mask = padded_batch()
    assert policy.head_states(ids, mask).shape == (1, 2, 11, 32)
    assert policy.num_parameters() == count


def test_trunk_and_head_parameters_partition_all_parameters() -> None:
    policy, base = policy_and_base("llama_tied")
    trunk = [id(p) for p in policy.trunk_parameters()]
    heads = [id(p) for p in policy.head_parameters()]
    assert sorted(trunk + heads) == sorted(id(p) for p in policy.parameters())
    assert len(trunk) == len(list(base.parameters()))


def test_detached_extra_heads_send_no_gradient_into_the_trunk() -> None:
    policy, _ = policy_and_base()
    ids, mask = padded_batch()
    policy.head_states(ids, mask, detach_extra=True)[1:].square().sum().backward()
    assert not decoder_layers(policy.base)[0].mlp.up_proj.weight.grad.any()
    assert all(p.grad.any() for p in policy.head_parameters())


def test_gradient_checkpointing_reaches_the_heads_and_leaves_gradients_as_they_are() -> None:
    gradients = []
    for checkpointing in (False, True):
        policy, _ = policy_and_base()
        policy.train()
        if checkpointing:
            policy.activation_checkpointing_enable()
            assert all(head.gradient_checkpointing for head in policy.heads.heads)
        policy.head_states(*padded_batch()).square().sum().backward()
        gradients.append([p.grad for p in policy.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_heads_have_cache_slots_of_their_own() -> None:
    policy, _ = policy_and_base()
    assert [head.self_attn.layer_idx for head in policy.heads.heads] == [2, 3, 4]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_save_and_load_keep_every_weight_bit_for_bit(architecture: str, dtype: torch.dtype, tmp_path: Path) -> None:
    policy, _ = policy_and_base(architecture)
    policy.to(dtype).save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(loaded, MTPForCausalLM)
    expected, found = policy.state_dict(), loaded.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) and found[key].dtype == dtype for key in expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_loaded_policy_gives_the_saved_ones_states_bit_for_bit(architecture: str, tmp_path: Path) -> None:
    policy, _ = policy_and_base(architecture)
    policy.save_pretrained(tmp_path)
    loaded = MTPForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded.head_states(*padded_batch()), policy.head_states(*padded_batch()))


def test_tied_embeddings_stay_tied_through_save_and_load(tmp_path: Path) -> None:
    policy, _ = policy_and_base("llama_tied")
    policy.save_pretrained(tmp_path)
    loaded = MTPForCausalLM.from_pretrained(tmp_path)
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight


def test_the_attention_kernel_asked_for_reaches_the_base(tmp_path: Path) -> None:
    policy, _ = policy_and_base()
    policy.save_pretrained(tmp_path)
    loaded = MTPForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert loaded.base.config._attn_implementation == "eager"


def test_importing_the_package_is_enough_for_the_auto_classes() -> None:
    assert weighted_mtp.models.MTPForCausalLM is MTPForCausalLM


def test_auto_config_knows_the_policy(folder: Path) -> None:
    config = AutoConfig.from_pretrained(folder)
    assert isinstance(config, MTPConfig)
    assert (config.n_future_tokens, config.vocab_size, config.hidden_size) == (HEADS, VOCABULARY, 32)


def test_generation_settings_of_the_base_are_kept(tmp_path: Path) -> None:
    base = tiny_model()
    base.generation_config.eos_token_id = [3, 256]
    MTPForCausalLM.from_base(base, 2).save_pretrained(tmp_path)
    assert MTPForCausalLM.from_pretrained(tmp_path).generation_config.eos_token_id == [3, 256]


@pytest.mark.parametrize("n_heads", [0, -1, 65])
def test_a_number_of_heads_out_of_range_is_refused(n_heads: int) -> None:
    with pytest.raises(UserError, match=f"n_future_tokens = {n_heads}"):
        MTPForCausalLM.from_base(tiny_model(), n_heads)


def test_a_base_of_one_layer_is_refused() -> None:
    config = LlamaConfig(**{**ARCHITECTURES["llama"].to_dict(), "num_hidden_layers": 1})
    with pytest.raises(UserError, match="num_hidden_layers = 1"):
        MTPForCausalLM.from_base(AutoModelForCausalLM.from_config(config), 2)


def test_a_base_that_has_heads_already_is_refused() -> None:
    with pytest.raises(UserError, match="already has n_future_tokens = 3"):
        MTPForCausalLM.from_base(policy_and_base()[0], 2)


@pytest.mark.parametrize(
    "config",
    [
        CohereConfig(**ARCHITECTURES["llama"].to_dict()),
        GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4, bos_token_id=None, eos_token_id=256),
        FalconConfig(**OTHERS, num_hidden_layers=3, num_attention_heads=4),
        BloomConfig(**OTHERS, n_layer=3, n_head=4),
        MptConfig(vocab_size=VOCABULARY, d_model=32, n_layers=3, n_heads=4),
        GPTBigCodeConfig(vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4, bos_token_id=None, eos_token_id=256),
        BertConfig(**OTHERS, num_hidden_layers=3, num_attention_heads=4, is_decoder=True),
    ],
    ids=lambda config: config.model_type,
)
@pytest.mark.parametrize("heads", [1, 3])
def test_an_architecture_that_cannot_have_heads_is_refused(config: PreTrainedConfig, heads: int) -> None:
    with pytest.raises(UserError, match=r"base model \w+: .*; use "):
        MTPForCausalLM.from_base(AutoModelForCausalLM.from_config(config), heads)


def test_load_policy_reads_what_was_saved(folder: Path) -> None:
    policy, tokenizer = load_policy(folder)
    assert torch.equal(policy.head_states(*padded_batch()), policy_and_base()[0].head_states(*padded_batch()))
    assert tokenizer.decode(tokenizer.encode("naïve")) == "naïve"


@pytest.mark.parametrize(
    ("n_heads", "message"),
    [(4, "lacks 9 weights"), (2, "holds 9 weights"), (0, "n_future_tokens = 0"), ("many", "or n_future_tokens")],
)
def test_a_head_count_that_is_not_the_checkpoints_is_refused(folder: Path, n_heads: object, message: str) -> None:
    set_config(folder, n_future_tokens=n_heads)
    with pytest.raises(UserError, match=message):
        load_policy(folder)


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    base_config = {**json.loads((folder / "config.json").read_text())["base_config"], "intermediate_size": 50}
    set_config(folder, base_config=base_config)
    with pytest.raises(UserError, match="cannot be read as a model"):
        load_policy(folder)


@pytest.mark.parametrize("size", [0, 1000, 50_000])
def test_a_truncated_checkpoint_is_refused_in_one_line(folder: Path, size: int) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(UserError, match="cannot be read as a model") as caught:
        load_policy(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "no config.json"),
        ("model.safetensors", "cannot be read"),
        ("tokenizer.json", "no readable tokenizer"),
    ],
)
def test_a_missing_file_is_named(folder: Path, missing: str, message: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(UserError, match=message):
        load_policy(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such model folder"):
        load_policy(tmp_path / "nowhere")


def test_a_plain_model_is_no_policy(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="llama model without prediction heads"):
        load_policy(tmp_path)


def test_a_policy_config_without_a_base_is_refused(folder: Path) -> None:
    set_config(folder, base_config=None)
    with pytest.raises(UserError, match="lacks base_config"):
        load_policy(folder)


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(folder: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<one more>"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match="258 tokens but the model embeds 257"):
        load_policy(folder)
