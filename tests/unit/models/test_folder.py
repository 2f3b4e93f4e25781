"""Card and manifest of a model folder, and what its check finds."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import byte_tokenizer, tiny_model

from weighted_mtp.errors import UserError
from weighted_mtp.manifest import write_manifest
from weighted_mtp.models.convert import convert, write_model
from weighted_mtp.models.folder import Origin, check_model

ORIGIN = Origin("org/base", "Made for a test.", "Apache 2.0", "abc123")


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    write_model(tiny_model("llama_tied"), byte_tokenizer(), tmp_path / "plain", ORIGIN)
    convert(str(tmp_path / "plain"), tmp_path / "policy", 3)
    return tmp_path / "policy"


def forged(folder: Path) -> None:
    """Make the manifest agree with changed files, so that only what they hold is left to find fault with."""
    write_manifest(folder, json.loads((folder / "manifest.json").read_text()))


def test_a_model_that_was_written_is_good(policy: Path) -> None:
    assert check_model(policy).startswith("policy with 3 heads, 0.0")
    assert check_model(policy.parent / "plain").startswith("causal LM, ")


def test_the_card_says_where_the_model_comes_from(policy: Path) -> None:
    card = (policy.parent / "plain" / "README.md").read_text()
    for fact in ("# plain", 'base_model: "org/base"', "revision `abc123`", "Apache 2.0", "none: a plain causal LM"):
        assert fact in card


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
