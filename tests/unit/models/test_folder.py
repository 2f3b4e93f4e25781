"""Card and manifest of a model folder, and what its check finds."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from tiny_models import byte_tokenizer, tiny_model

from weighted_mtp.errors import UserError
from weighted_mtp.manifest import write_manifest
from weighted_mtp.models.card import ModelOrigin, is_hub_id
from weighted_mtp.models.convert import convert, export_plain, write_model
from weighted_mtp.models.model_folder import check_model

ORIGIN = ModelOrigin("org/base", "Made for a test.", "Apache 2.0", "abc123", "apache-2.0", "org/base")


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    write_model(tiny_model("llama_tied"), byte_tokenizer(), tmp_path / "plain", ORIGIN)
    convert(str(tmp_path / "plain"), tmp_path / "policy", 3)
    return tmp_path / "policy"


def facts(folder: Path) -> dict[str, str]:
    """What a hub reads off a card of licence, base model and library."""
    known = ModelCard.load(folder / "README.md").data.to_dict()
    return {key: known[key] for key in ("license", "license_name", "base_model", "library_name") if known.get(key)}


def forged(folder: Path) -> None:
    """Make the manifest agree with changed files, so that only what they hold is left to find fault with."""
    write_manifest(folder, json.loads((folder / "manifest.json").read_text()))


def test_a_model_that_was_written_is_good(policy: Path) -> None:
    assert check_model(policy).startswith("policy with 3 heads, 0.0")
    assert check_model(policy.parent / "plain").startswith("causal LM, ")


def test_the_card_says_where_the_model_comes_from(policy: Path) -> None:
    card = (policy.parent / "plain" / "README.md").read_text()
    for fact in ("# plain", "`org/base` at revision `abc123`", "| Apache 2.0 |", "none: a plain causal LM"):
        assert fact in card
    assert facts(policy.parent / "plain") == {
        "license": "apache-2.0",
        "base_model": "org/base",
        "library_name": "transformers",
    }


def test_a_model_made_of_another_has_its_licence_and_base_model(policy: Path) -> None:
    export_plain(policy, policy.parent / "exported")
    assert facts(policy.parent / "exported") == facts(policy.parent / "plain")
    assert facts(policy) == {**facts(policy.parent / "plain"), "library_name": "weighted-mtp"}


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (ModelOrigin("own_policy", "Trunk and head 1 of a policy."), {}),
        (ModelOrigin("SmolLM2.Q4_1.gguf", "Converted.", "terms of the publisher"), {}),
        (
            ModelOrigin("a", "b", "non-commercial", licence_id="Own Research License", base_model="org/base"),
            {"license": "other", "license_name": "own-research-license", "base_model": "org/base"},
        ),
    ],
)
def test_the_card_has_nothing_that_a_hub_refuses(tmp_path: Path, origin: ModelOrigin, expected: dict[str, str]) -> None:
    write_model(tiny_model(), byte_tokenizer(), tmp_path / "model", origin)
    assert facts(tmp_path / "model") == {**expected, "library_name": "transformers"}


def test_facts_of_an_upstream_card_are_taken_over_and_a_card_without_any_does_no_harm(policy: Path) -> None:
    plain = policy.parent / "plain"
    cards = {
        "list": "---\nlicense: other\nlicense_name: llama9\nbase_model:\n- org/root\n- org/more\n---\ntext",
        "path": "---\nlicense: mit\nbase_model: /home/someone/model\n---\ntext",
        "broken": "---\nlicense: [mit\n---\n",
        "none": "only text",
    }
    heads = {}
    for name, text in cards.items():
        (plain / "README.md").write_text(text)
        convert(str(plain), policy.parent / name, 2)
        heads[name] = {k: v for k, v in facts(policy.parent / name).items() if k != "library_name"}
    assert heads == {
        "list": {"license": "other", "license_name": "llama9", "base_model": "org/root"},
        "path": {"license": "mit"},
        "broken": {},
        "none": {},
    }


@pytest.mark.parametrize("name", ["org/name", "org-1/Name.v2_x"])
def test_a_hub_id_is_told_from_a_path(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_id(name)
    (tmp_path / name).mkdir(parents=True)
    assert not is_hub_id(name)
    assert not any(is_hub_id(other) for other in ("name", "/org/name", "a/b/c", "org/na me", "~/model", "./model"))


def test_an_older_folder_is_replaced_as_a_whole(policy: Path) -> None:
    (policy / "left over").touch()
    write_model(tiny_model(), byte_tokenizer(), policy, ORIGIN)
    assert not (policy / "left over").exists()
    check_model(policy)


def test_a_truncated_weights_file_is_found(policy: Path) -> None:
    weights = policy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"model\.safetensors has \d+ bytes instead of \d+: it is truncated"):
        check_model(policy)


def test_a_flipped_bit_is_found(policy: Path) -> None:
    weights = policy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(UserError, match="another SHA-256"):
        check_model(policy)


def test_a_folder_without_manifest_is_refused(policy: Path) -> None:
    (policy / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"has no manifest\.json"):
        check_model(policy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("base.model.layers.2.heads.1.mlp.up_proj.weight"), "lacks 1 weights"),
        (lambda w: w.update(extra=torch.zeros(1)), "holds 1 weights that config.json has no place for, first extra"),
        (lambda w: w.update({"base.model.norm.weight": torch.zeros(5)}), r"norm.weight has shape \(5,\)"),
    ],
)
def test_weights_that_config_json_does_not_call_for_are_found(policy: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    weights = load_file(policy / "model.safetensors")
    change(weights)
    save_file(weights, policy / "model.safetensors", metadata={"format": "pt"})
    forged(policy)
    with pytest.raises(UserError, match=message):
        check_model(policy)


def test_another_number_of_heads_is_found(policy: Path) -> None:
    config = json.loads((policy / "config.json").read_text())
    (policy / "config.json").write_text(json.dumps({**config, "n_future_tokens": 2}))
    forged(policy)
    with pytest.raises(UserError, match="holds 9 weights"):
        check_model(policy)
