"""The value model: what it starts as, what is trained, and its folder."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import byte_tokenizer, padded_batch, tiny_model

from weighted_mtp.errors import UserError
from weighted_mtp.models.adapters import LoraSettings, has_lora
from weighted_mtp.models.mtp import MTPForCausalLM
from weighted_mtp.models.value import (
    ValueConfig,
    ValueModel,
    build_value_model,
    load_value_model,
    save_value_model,
)
from weighted_mtp.section import validated

HEADS = ["linear", "mlp", "sigmoid"]
ARCHITECTURES = ["llama_tied", "qwen3", "gemma2", "phi"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A reference: a policy's folder."""
    folder = tmp_path_factory.mktemp("reference")
    MTPForCausalLM.from_base(tiny_model("llama_tied"), 3, "random").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


def trained(model: ValueModel) -> ValueModel:
    """Stand-in for training: every trainable parameter moved at random."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("head", HEADS)
def test_every_value_starts_at_the_base_rate(architecture: str, head: str) -> None:
    ids, mask = padded_batch()
    for rate, log_odds in [(0.5, 0.0), (0.2, -1.3862944)]:
        values = ValueModel.from_base(tiny_model(architecture), head, rate)(ids, mask)
        expected = rate if head == "sigmoid" else log_odds
        torch.testing.assert_close(values, torch.full(ids.shape, expected))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_values_are_the_head_on_the_decoders_last_states(architecture: str) -> None:
    base, (ids, mask) = tiny_model(architecture), padded_batch()
    states = base.get_decoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    model = trained(ValueModel.from_base(base, "linear").requires_grad_(False))
    model.value_head.requires_grad_(True)
    trained(model)
    torch.testing.assert_close(model(ids, mask), model.value_head(states).squeeze(-1))


@pytest.mark.parametrize("head", HEADS)
def test_a_value_depends_on_what_came_before_alone_and_never_on_padding(head: str) -> None:
    model, (ids, mask) = trained(ValueModel.from_base(tiny_model(), head)), padded_batch()
    other = ids.clone()
    other[0, 6:] = 7
    other[1, 7:] = 9
    before, after = model(ids, mask), model(other, mask)
    torch.testing.assert_close(after[0, :6], before[0, :6])
    torch.testing.assert_close(after[1, :7], before[1, :7])
    assert not torch.allclose(after[0, 6:], before[0, 6:])


def test_the_sigmoid_head_gives_the_probabilities_of_its_scores() -> None:
    model, (ids, mask) = trained(ValueModel.from_base(tiny_model(), "sigmoid")), padded_batch()
    assert model.output_kind == "probability"
    assert torch.equal(model(ids, mask), torch.sigmoid(model.scores(ids, mask)))
    assert ValueModel.from_base(tiny_model(), "mlp").output_kind == "score"


def test_a_policys_backbone_is_its_trunk_and_head_one_uncoupled_from_it() -> None:
    policy, (ids, mask) = MTPForCausalLM.from_base(tiny_model(), 3, "random"), padded_batch()
    expected = policy.get_decoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    model = ValueModel.from_base(policy, "linear")
    assert torch.equal(model.backbone(input_ids=ids, attention_mask=mask).last_hidden_state, expected)
    assert not {id(p) for p in model.parameters()} & {id(p) for p in policy.parameters()}
    assert not any("heads" in name for name, _ in model.named_parameters())


def test_under_autocast_the_head_is_computed_in_fp32() -> None:
    model, (ids, mask) = trained(ValueModel.from_base(tiny_model(), "mlp")), padded_batch()
    with torch.autocast("cpu", torch.bfloat16):
        values = model(ids, mask)
        states = model.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
    assert values.dtype == torch.float32
    assert torch.equal(values, model.value_head(states.float()).squeeze(-1))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", ["full", "last", "lora", "frozen"])
def test_one_step_trains_what_was_asked_for_and_nothing_else(source: str, head: str, backbone: str) -> None:
    options = {"last_layers": 2} if backbone == "last" else {"backbone": backbone}
    config = validated(ValueConfig, {"source": source, "head": head, **options})
    model, _ = build_value_model(config, seed=0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(3):  # the head's last layer starts at zero, so what lies before it moves from the second step on
        optimizer.zero_grad()
        (model(*padded_batch()) - torch.arange(11.0)).square().mean().backward()
        optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    backbone_moved = {name for name in moved if name.startswith("backbone.")}
    assert {name for name in moved if name.startswith("value_head.")} == {n for n in before if "value_head" in n}
    if backbone == "frozen":
        assert not backbone_moved
    elif backbone == "lora":
        assert backbone_moved
        assert all(".lora_" in name for name in backbone_moved)
    elif backbone == "last":
        assert backbone_moved == {name for name in before if ".layers.1." in name or ".layers.2." in name}
    else:
        assert len(backbone_moved) == sum(name.startswith("backbone.") for name in before)


def test_a_value_model_is_a_function_of_its_seed(source: str) -> None:
    first, again, other = (build_value_model(ValueConfig(source=source), seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first.value_head[0].weight, again.value_head[0].weight)
    assert not torch.equal(first.value_head[0].weight, other.value_head[0].weight)
    assert float(first.value_head[0].weight.detach().std()) == pytest.approx(
        0.2, rel=0.2
    )  # the backbone's initializer_range


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", ["full", "lora"])
def test_a_saved_value_model_loads_to_the_same_values(tmp_path: Path, source: str, head: str, backbone: str) -> None:
    model, tokenizer = build_value_model(ValueConfig(source=source, head=head, backbone=backbone), seed=0)
    save_value_model(trained(model).eval(), tokenizer, tmp_path / "critic")
    loaded, _ = load_value_model(tmp_path / "critic")
    assert not has_lora(loaded)
    assert has_lora(model) == (backbone == "lora")
    torch.testing.assert_close(loaded(*padded_batch()), model(*padded_batch()), rtol=1e-4, atol=1e-4)
    assert (loaded.config.head, loaded.training) == (head, False)


def test_a_value_model_in_half_precision_keeps_its_head_in_fp32(tmp_path: Path, source: str) -> None:
    save_value_model(*build_value_model(ValueConfig(source=source), seed=0), tmp_path)
    loaded, _ = load_value_model(tmp_path, "bfloat16")
    assert {p.dtype for p in loaded.backbone.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in loaded.value_head.parameters()} == {torch.float32}
    assert loaded(*padded_batch()).dtype == torch.float32


@pytest.fixture
def folder(tmp_path: Path, source: str) -> Path:
    save_value_model(*build_value_model(ValueConfig(source=source), seed=0), tmp_path)
    return tmp_path


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_folder_of_another_kind_is_refused(source: str) -> None:
    with pytest.raises(UserError, match="a weighted_mtp model without a value head; train a critic on it first"):
        load_value_model(source)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such model folder"):
        load_value_model(tmp_path / "nothing")


def test_another_head_than_the_configs_is_refused(folder: Path) -> None:
    change_config(folder, head="linear")
    with pytest.raises(UserError, match=r"lacks 2 weights that its config.json calls for, the first value_head.bias"):
        load_value_model(folder)


@pytest.mark.parametrize("changes", [{"head": "cubic"}, {"base_config": None}])
def test_a_config_without_backbone_or_known_head_is_refused(folder: Path, changes: dict) -> None:
    change_config(folder, **changes)
    with pytest.raises(UserError, match=r"config.json: lacks base_config .* or head"):
        load_value_model(folder)


def test_truncated_weights_are_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"{folder}: cannot be read as a model"):
        load_value_model(folder)


@pytest.mark.parametrize("name", ["value_head.2.weight", "backbone.layers.1.mlp.up_proj.weight"])
def test_missing_weights_are_refused(folder: Path, name: str) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"lacks 1 weights that its config.json calls for, the first {name}"):
        load_value_model(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora": LoraSettings()}, "lora is given but backbone=full: set backbone=lora"),
        ({"backbone": "lora", "lora": LoraSettings(full_heads=True)}, "lora.full_heads is for policies"),
        (
            {"backbone": "frozen", "last_layers": 2},
            "last_layers=2 has no effect with backbone=frozen: set backbone=full",
        ),
    ],
)
def test_options_of_the_backbone_without_effect_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        validated(ValueConfig, {"source": "somewhere", **options})


def test_more_last_layers_than_there_are_is_one_line(source: str) -> None:
    with pytest.raises(UserError, match=r"value.last_layers=4: .* has 3 layers"):
        build_value_model(ValueConfig(source=source, last_layers=4), seed=0)
