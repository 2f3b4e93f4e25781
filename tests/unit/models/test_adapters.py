import copy
from pathlib import Path

import pytest
import torch
from tiny_models import padded_batch, tiny_model

from weighted_mtp.errors import UserError
from weighted_mtp.models.adapters import LoraSettings, apply_lora, has_lora, merge_lora
from weighted_mtp.models.mtp import MTPForCausalLM

ARCHITECTURES = ["llama_tied", "gemma2", "phi"]


def policy(architecture: str = "llama_tied") -> MTPForCausalLM:
    return MTPForCausalLM.from_base(tiny_model(architecture), 3, "random")


def trainable_state(model: MTPForCausalLM) -> dict[str, torch.Tensor]:
    """What training changes."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def trained(model: MTPForCausalLM) -> MTPForCausalLM:
    """Stand-in for training: all adapters' B drawn at random instead of zero."""
    torch.manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_before_training_adapters_change_nothing(architecture: str) -> None:
    model = policy(architecture)
    expected = model.head_states(*padded_batch())
    apply_lora(model, LoraSettings())
    assert torch.equal(model.head_states(*padded_batch()), expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_merging_keeps_the_states(architecture: str) -> None:
    model = trained(apply_lora(policy(architecture), LoraSettings()))
    merged = merge_lora(model)
    assert not has_lora(merged)
    expected = model.head_states(*padded_batch())
    torch.testing.assert_close(merged.head_states(*padded_batch()), expected, rtol=1e-4, atol=1e-5)


def test_trained_adapters_change_every_head() -> None:
    model = policy()
    before = model.head_states(*padded_batch())
    after = trained(apply_lora(model, LoraSettings())).head_states(*padded_batch())
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(after, before, strict=True))


def test_merging_leaves_tied_embeddings_alone() -> None:
    model = policy()
    embeddings = model.get_input_embeddings().weight.clone()
    merged = merge_lora(trained(apply_lora(model, LoraSettings())))
    assert torch.equal(merged.get_input_embeddings().weight, embeddings)
    assert merged.get_output_embeddings().weight is merged.get_input_embeddings().weight


def test_merging_is_a_copy() -> None:
    model = trained(apply_lora(policy(), LoraSettings()))
    before = copy.deepcopy(model.state_dict())
    merge_lora(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_merging_without_adapters_is_no_copy() -> None:
    model = policy()
    assert merge_lora(model) is model


def test_a_merged_policy_saves_and_loads_like_any_other(tmp_path: Path) -> None:
    merged = merge_lora(trained(apply_lora(policy(), LoraSettings())))
    merged.save_pretrained(tmp_path)
    loaded = MTPForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded.head_states(*padded_batch()), merged.head_states(*padded_batch()))


def test_all_linear_layers_of_trunk_and_heads_and_nothing_else_get_adapters() -> None:
    model = apply_lora(policy(), LoraSettings(r=2))
    names = {name.split(".lora_")[0] for name in trainable_state(model)}
    assert len(names) == 7 * (2 + 3)  # q, k, v, o, gate, up, down in 2 trunk layers and 3 heads
    assert all(".lora_" in name for name in trainable_state(model))
    assert not any("embed" in name or "lm_head" in name for name in names)


def test_targets_can_be_chosen() -> None:
    model = apply_lora(policy(), LoraSettings(target_modules=("q_proj", "v_proj")))
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in trainable_state(model)} == {"q_proj", "v_proj"}


@pytest.mark.parametrize("target", ["lm_head", "w_proj"])
def test_a_target_outside_the_decoder_layers_is_refused(target: str) -> None:
    with pytest.raises(UserError, match=f"lora.target_modules: {target}"):
        apply_lora(policy(), LoraSettings(target_modules=(target,)))


def test_full_heads_are_trained_without_adapters() -> None:
    model = apply_lora(policy(), LoraSettings(full_heads=True))
    heads = list(model.head_parameters())
    assert all(parameter.requires_grad for parameter in heads)
    assert not any(has_lora(head) for head in model.heads.extra)
    assert len(trainable_state(model)) == len(heads) + 2 * 7 * (2 + 1)


def test_the_trainable_state_carries_a_run_over_to_a_fresh_model() -> None:
    model = trained(apply_lora(policy(), LoraSettings(full_heads=True)))
    fresh = apply_lora(policy(), LoraSettings(full_heads=True))
    result = fresh.load_state_dict(trainable_state(model), strict=False)
    assert not result.unexpected_keys
    assert torch.equal(fresh.head_states(*padded_batch()), model.head_states(*padded_batch()))
