import copy
import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import Linear, LoraLayer
from safetensors.torch import load_file, save_file
from tiny_models import ARCHITECTURES as ALL
from tiny_models import byte_tokenizer, padded_batch, tiny_model

from weighted_mtp.errors import UserError
from weighted_mtp.models import adapters
from weighted_mtp.models import weight_files as shards
from weighted_mtp.models.adapters import (
    LoraSettings,
    apply_lora,
    export_adapters,
    has_lora,
    merge_lora,
    save_adapters,
    save_merged,
)
from weighted_mtp.models.build import ModelConfig, build_policy, save_policy
from weighted_mtp.models.checkpoint import load_policy, save_tokenizer
from weighted_mtp.models.convert import convert, load_base
from weighted_mtp.models.mtp import MTPForCausalLM
from weighted_mtp.models.value import ValueConfig, build_value_model, load_value_model

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


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adapters_compute_what_pefts_own_do(monkeypatch: pytest.MonkeyPatch, architecture: str, dropout: float) -> None:
    model = trained(apply_lora(policy(architecture), LoraSettings(r=4, alpha=12, dropout=dropout))).double()
    ids = torch.arange(12).view(2, 6)

    def passed() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        torch.manual_seed(3)
        states = model.train().head_states(ids)
        model.zero_grad()
        states.sin().sum().backward()
        return states.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    ours, ours_back = passed()
    adapted = [module for module in model.modules() if isinstance(module, LoraLayer)]
    assert adapted
    assert all(type(module).forward is not Linear.forward for module in adapted)
    monkeypatch.setattr(type(adapted[0]), "forward", Linear.forward)
    theirs, theirs_back = passed()
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(ours_back, theirs_back)


@pytest.mark.parametrize("architecture", ALL)
def test_what_is_saved_is_the_merged_model_without_a_copy_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    model = trained(apply_lora(policy(architecture), LoraSettings(full_heads=True)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    merge_lora(model).save_pretrained(tmp_path / "copy")
    monkeypatch.setattr(adapters, "merge_lora", None)
    save_merged(model, tmp_path / "saved")
    assert sorted(f.name for f in (tmp_path / "saved").iterdir()) == sorted(
        f.name for f in (tmp_path / "copy").iterdir()
    )
    for file in (tmp_path / "copy").glob("*.json"):
        assert json.loads((tmp_path / "saved" / file.name).read_text()) == json.loads(file.read_text())
    expected, found = (load_file(tmp_path / name / "model.safetensors") for name in ("copy", "saved"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_large_model_is_saved_a_file_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained(apply_lora(policy(), LoraSettings()))
    monkeypatch.setattr(shards.write_shards, "__defaults__", (20_000, lambda _: None))
    save_policy(model, byte_tokenizer(), tmp_path)
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 3
    loaded, _ = load_policy(tmp_path)
    assert torch.equal(loaded.head_states(*padded_batch()), merge_lora(model).head_states(*padded_batch()))


@pytest.mark.parametrize("with_config", [False, True])
def test_adapters_of_another_program_are_refused_with_what_to_do(tmp_path: Path, with_config: bool) -> None:
    config = LoraConfig(task_type="CAUSAL_LM", base_model_name_or_path="org/base", target_modules=["q_proj"])
    config.save_pretrained(str(tmp_path))
    if with_config:
        tiny_model().config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"adapters that another program put on org/base; merge them into it"):
        load_base(str(tmp_path))


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


def saved_plain(folder: Path, architecture: str = "llama_tied") -> Path:
    tiny_model(architecture).save_pretrained(folder)
    save_tokenizer(byte_tokenizer(), folder)
    return folder


@pytest.fixture(params=ARCHITECTURES)
def plain(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A plain causal LM's folder."""
    return saved_plain(tmp_path / "plain", request.param)


def saved_policy(plain: Path, folder: Path, **lora: object) -> MTPForCausalLM:
    """A trained policy on a plain model, of which only the adapters are saved."""
    config = ModelConfig(source=str(plain), n_future_tokens=3, lora=LoraSettings(r=4, **lora))
    model, tokenizer = build_policy(config, seed=0)
    trained(model)
    with torch.no_grad():
        for parameter in model.head_parameters():
            if parameter.requires_grad:
                parameter += 0.1
    save_adapters(model, tokenizer, str(plain), folder)
    return model.eval()


@pytest.mark.parametrize("full_heads", [False, True])
def test_saved_adapters_give_the_trained_policy_again(plain: Path, tmp_path: Path, full_heads: bool) -> None:
    model = saved_policy(plain, tmp_path / "adapters", full_heads=full_heads)
    loaded, _ = load_base(str(tmp_path / "adapters"))
    assert not has_lora(loaded)
    expected = model.head_states(*padded_batch())
    torch.testing.assert_close(loaded.head_states(*padded_batch()), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own, of transformers
def test_plain_peft_reads_saved_adapters_and_computes_the_same(plain: Path, tmp_path: Path) -> None:
    model = saved_policy(plain, tmp_path / "adapters", full_heads=True)
    before = MTPForCausalLM.from_base(load_base(str(plain))[0], 3)
    loaded = PeftModel.from_pretrained(before, str(tmp_path / "adapters")).base_model.model
    assert torch.equal(loaded.head_states(*padded_batch()), model.head_states(*padded_batch()))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own, of transformers
def test_exported_adapters_are_plain_pefts_on_the_plain_model(plain: Path, tmp_path: Path) -> None:
    model = saved_policy(plain, tmp_path / "adapters", full_heads=True)
    export_adapters(tmp_path / "adapters", tmp_path / "plain-adapters")
    loaded = PeftModel.from_pretrained(load_base(str(plain))[0], str(tmp_path / "plain-adapters"))
    ids, mask = padded_batch()
    torch.testing.assert_close(
        loaded(input_ids=ids, attention_mask=mask).logits, model(ids, mask).logits, rtol=1e-5, atol=1e-6
    )


def test_converting_saved_adapters_writes_the_whole_policy_with_its_embeddings_as_they_were(
    plain: Path, tmp_path: Path
) -> None:
    model = saved_policy(plain, tmp_path / "adapters")
    convert(str(tmp_path / "adapters"), tmp_path / "merged")
    merged, _ = load_base(str(tmp_path / "merged"))
    torch.testing.assert_close(
        merged.head_states(*padded_batch()), model.head_states(*padded_batch()), rtol=1e-3, atol=1e-4
    )
    assert torch.equal(merged.get_input_embeddings().weight, load_base(str(plain))[0].get_input_embeddings().weight)


def test_adapters_are_a_small_part_of_the_model(tmp_path: Path) -> None:
    saved_policy(saved_plain(tmp_path / "plain"), tmp_path / "adapters")
    names = load_file(tmp_path / "adapters" / "adapter_model.safetensors")
    assert all(".lora_" in name for name in names)


def test_adapters_that_lack_a_weight_are_refused(tmp_path: Path) -> None:
    saved_policy(saved_plain(tmp_path / "plain"), tmp_path / "adapters")
    file = tmp_path / "adapters" / "adapter_model.safetensors"
    weights = load_file(file)
    del weights[next(iter(weights))]
    save_file(weights, file)
    with pytest.raises(UserError, match="1 weights are only on one side, adapters or"):
        load_base(str(tmp_path / "adapters"))


def test_adapters_without_the_model_they_were_put_on_are_refused(tmp_path: Path) -> None:
    saved_policy(saved_plain(tmp_path / "plain"), tmp_path / "adapters")
    (tmp_path / "plain").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="no such path"):
        load_base(str(tmp_path / "adapters"))


def test_adapters_are_refused_on_a_model_that_was_trained_further(tmp_path: Path) -> None:
    saved_policy(saved_plain(tmp_path / "plain"), tmp_path / "adapters")
    base, _ = load_base(str(tmp_path / "plain"))
    with torch.no_grad():
        next(base.parameters())[0, 0] += 1e-3
    base.save_pretrained(tmp_path / "plain")
    with pytest.raises(UserError, match="plain has other weights than these adapters were trained on"):
        load_base(str(tmp_path / "adapters"))


@pytest.mark.parametrize("head", ["mlp", "sigmoid"])
def test_a_critics_saved_adapters_give_the_trained_critic_again(tmp_path: Path, head: str) -> None:
    plain = saved_plain(tmp_path / "plain")
    config = ValueConfig(source=str(plain), head=head, backbone="lora", lora=LoraSettings(r=4))
    model, tokenizer = build_value_model(config, seed=0)
    trained(model)
    torch.nn.init.normal_(list(model.value_head.parameters())[-2])
    save_adapters(model, tokenizer, str(plain), tmp_path / "adapters")
    loaded, _ = load_value_model(tmp_path / "adapters")
    expected = model.eval()(*padded_batch())
    assert expected.std() > 1e-3
    torch.testing.assert_close(loaded(*padded_batch()), expected, rtol=1e-3, atol=1e-4)
