"""Setting up models: from the hub, from files, and micro models; and what a user is told when something is missing."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_server import HubServer
from tiny_models import byte_tokenizer, tiny_model
from typer.testing import CliRunner

from weighted_mtp.cli import app
from weighted_mtp.models.checkpoint import load_policy
from weighted_mtp.models.convert import load_base
from weighted_mtp.models.mtp import MTPForCausalLM


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    tiny_model().save_pretrained(tmp_path / "tiny")
    byte_tokenizer().save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def setup(storage: Path, *options: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["models", "setup", "--storage", str(storage), *options])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, " ".join(done.output.split())


def verify(storage: Path, *options: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["verify", "--storage", str(storage), *options])
    return done.exit_code, " ".join(done.output.split())


def test_a_model_of_the_hub_is_downloaded_converted_and_verified(hub: HubServer, plain: Path, tmp_path: Path) -> None:
    shutil.copytree(plain, hub.root / "models" / "org" / "tiny")
    code, output = setup(tmp_path / "storage", "--model", "org/tiny", "--n-future-tokens", "3")
    assert code == 0, output
    policy, _ = load_policy(tmp_path / "storage" / "models" / "tiny-mtp")
    assert policy.config.n_future_tokens == 3
    manifest = json.loads((tmp_path / "storage" / "models" / "tiny-mtp" / "manifest.json").read_text())
    assert manifest["origin"]["name"] == "org/tiny"
    assert manifest["origin"]["revision"] in output


def test_the_same_command_again_does_nothing(plain: Path, tmp_path: Path) -> None:
    assert setup(tmp_path, "--model", str(plain))[0] == 0
    before = (tmp_path / "models" / "tiny-mtp" / "model.safetensors").stat().st_mtime_ns
    code, output = setup(tmp_path, "--model", str(plain))
    assert (code, "exists already" in output) == (0, True)
    assert (tmp_path / "models" / "tiny-mtp" / "model.safetensors").stat().st_mtime_ns == before


def test_a_reference_stays_a_plain_causal_lm(plain: Path, tmp_path: Path) -> None:
    assert setup(tmp_path, "--model", str(plain), "--type", "reference")[0] == 0
    model, _ = load_base(str(tmp_path / "models" / "tiny-reference"))
    assert not isinstance(model, MTPForCausalLM)


def test_a_models_own_files_may_come_from_a_folder(plain: Path, tmp_path: Path) -> None:
    code, output = setup(tmp_path / "storage", "--model", "org/tiny", "--source", str(plain))
    assert code == 0, output
    assert (tmp_path / "storage" / "models" / "tiny-mtp" / "model.safetensors").is_file()


def test_a_tokenizer_for_a_model_that_has_one_is_refused(plain: Path, tmp_path: Path) -> None:
    code, output = setup(tmp_path, "--model", str(plain), "--tokenizer", "tokenizer.model")
    assert (code, "--tokenizer tokenizer.model: is only useful for Meta's format" in output) == (2, True)


def test_random_weights_are_those_of_the_seed(tmp_path: Path) -> None:
    made = []
    for place, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        assert setup(tmp_path / place, "--create-micro", "--micro-type", "reference", "--seed", seed)[0] == 0
        made.append((tmp_path / place / "models" / "micro-reference" / "model.safetensors").read_bytes())
    assert made[0] == made[1] != made[2]


def test_without_the_hub_the_line_names_the_flag_and_the_licence(hub: HubServer, tmp_path: Path) -> None:
    code, output = setup(tmp_path, "--model", "meta-llama-mtp")
    assert code == 2
    assert "facebook/multi-token-prediction" in output
    assert "--source" in output
    assert "non-commercial" in output


def test_converting_what_is_not_downloaded_says_what_to_run(tmp_path: Path) -> None:
    code, output = setup(tmp_path, "--model", "ref-sheared-llama", "--steps", "convert")
    assert (code, "add download to --steps" in output) == (2, True)


def test_an_unknown_step_is_named(tmp_path: Path) -> None:
    code, output = setup(tmp_path, "--model", "x", "--steps", "downlaod")
    assert (code, "--steps downlaod: downlaod is not one of download, convert, verify" in output) == (2, True)


@pytest.mark.parametrize("kind", ["mtp", "reference"])
def test_a_micro_model_is_cut_out_of_a_base(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weighted_mtp.pipelines.setup_models.MicroSize", small_size)
    tiny_model().save_pretrained(tmp_path / "base")
    byte_tokenizer().save_pretrained(tmp_path / "base")
    options = ("--model", str(tmp_path / "base"), "--create-micro", "--micro-type", kind, "--micro-init", "from-base")
    code, output = setup(tmp_path / "storage", *options)
    assert code == 0, output
    model, tokenizer = load_base(str(tmp_path / "storage" / "models" / f"micro-{kind}"))
    assert isinstance(model, MTPForCausalLM) == (kind == "mtp")
    up = tiny_model().model.layers[0].mlp.up_proj.weight[::2, ::2]
    layer = (model.base if isinstance(model, MTPForCausalLM) else model).model.layers[0]
    assert torch.equal(layer.mlp.up_proj.weight, up)
    assert len(tokenizer) == 257


def small_size():  # type: ignore[no-untyped-def]
    from weighted_mtp.models.micro import MicroSize

    return MicroSize(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=32
    )


def test_a_damaged_model_is_found_and_the_line_says_what_to_run(plain: Path, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    setup(storage, "--model", str(plain))
    assert verify(storage, "--check", "models")[0] == 0
    weights = storage / "models" / "tiny-mtp" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    code, output = verify(storage, "--generate-report")
    assert (code, "truncated" in output, "run `rm -r" in output) == (1, True, True)
    report = json.loads((storage / "verification.json").read_text())
    assert [check["good"] for check in report] == [False]
    assert "**wrong**" in (storage / "verification.md").read_text()


def test_there_must_be_something_to_verify(tmp_path: Path) -> None:
    code, output = verify(tmp_path)
    assert (code, "holds nothing to check" in output) == (2, True)
