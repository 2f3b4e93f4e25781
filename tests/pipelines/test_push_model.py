"""`wmtp models push`, against a hub on loopback that checks cards as the real one does."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from hub_server import HubServer
from huggingface_hub import ModelCard, constants, snapshot_download
from huggingface_hub.utils import close_session
from tiny_models import byte_tokenizer, tiny_model
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from weighted_mtp.cli import app
from weighted_mtp.evaluation.answers import model_checksum
from weighted_mtp.models.card import ModelOrigin
from weighted_mtp.models.convert import convert, write_model
from weighted_mtp.models.model_folder import check_model

BASE = ModelOrigin("org/base", "Made for a test.", "Apache 2.0", "abc123", "apache-2.0", "org/base")


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that may write, no other, and files uploaded as the hub's own protocol does without Xet's storage."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_writes")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server
        close_session()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write_model(tiny_model("llama_tied"), byte_tokenizer(), folder / "plain", BASE)
    convert(str(folder / "plain"), folder / "policy", 3)
    return folder


@pytest.fixture
def policy(made: Path) -> Path:
    return made / "policy"


def push(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["models", "push", *map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, " ".join(done.output.split())


def refused(*arguments: str | Path) -> str:
    code, output = push(*arguments)
    assert code == 2, output
    return output


def evaluation(folder: Path, model: Path, temperature: float, value: float) -> Path:
    """What `wmtp evaluate` leaves of an evaluation of `model`, as far as a card is made of it."""
    folder.mkdir(parents=True)
    origin = {"benchmark": "humaneval", "model_sha256": model_checksum(model)}
    (folder / "evaluation.json").write_text(json.dumps({"origin": origin}))
    sampling = {"temperature": temperature, "top_p": 0.95}
    estimate = {"value": value, "low": value - 0.1, "high": value + 0.1, "confidence": 0.95}
    report = {
        "config": {"benchmark": "humaneval", "split": "test", "sampling": sampling},
        "pass_at_k": {"1": estimate},
        "problems": 164,
        "samples": 1640,
        "statuses": {},
    }
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def repository(hub: HubServer) -> Path:
    return hub.root / "models" / "me" / "mine"


def test_a_policy_is_committed_once_to_a_private_repository_and_loads_from_there(hub: HubServer, policy: Path) -> None:
    before = {file.name: file.read_bytes() for file in policy.iterdir()}
    code, output = push(policy, "me/mine")
    assert code == 0
    assert output.endswith(f"{hub.endpoint}/me/mine")
    assert hub.private == {"me/mine"}
    assert len(hub.messages) == 1
    assert {file.name for file in repository(hub).iterdir()} == {*before, ".gitattributes"}
    assert {file.name: file.read_bytes() for file in policy.iterdir()} == before
    fetched = Path(snapshot_download("me/mine", endpoint=hub.endpoint))
    assert "policy with 3 heads" in check_model(fetched)
    there, here = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (fetched, policy))
    assert all(torch.equal(there[name], here[name]) for name in here)


def test_the_card_is_one_that_the_hub_accepts_with_pass_at_k_as_its_model_index(
    hub: HubServer, policy: Path, tmp_path: Path
) -> None:
    evaluation(tmp_path / "evaluations" / "cold", policy, 0.2, 0.4)
    evaluation(tmp_path / "evaluations" / "hot", policy, 1.0, 0.25)
    assert push(policy, "me/mine", "--evaluation", tmp_path / "evaluations", "--public")[0] == 0
    assert hub.private == set()
    text = (repository(hub) / "README.md").read_text()
    data = ModelCard(text).data
    assert (data.license, data.base_model, data.library_name) == ("apache-2.0", "org/base", "weighted-mtp")
    assert (data.pipeline_tag, data.tags) == ("text-generation", ["code", "multi-token-prediction", "custom_code"])
    results = {result.metric_name: result for result in data.eval_results or []}
    assert results.keys() == {"pass@1 at temperature 0.2", "pass@1 at temperature 1"}
    cold = results["pass@1 at temperature 0.2"]
    assert (cold.dataset_type, cold.dataset_split, cold.metric_value) == ("openai/openai_humaneval", "test", 0.4)
    assert cold.metric_args["interval"] == pytest.approx([0.3, 0.5])
    assert cold.metric_args["samples_per_problem"] == 10
    assert "| humaneval, test | pass@1 at temperature 0.2 | 0.400 | 0.300 – 0.500 | 164 × 10 |" in text
    assert 'from_pretrained("me/mine", trust_remote_code=True)' in text


def test_evaluations_of_the_usual_place_are_found_and_those_of_other_weights_left_out(
    hub: HubServer, policy: Path, made: Path, tmp_path: Path
) -> None:
    evaluation(tmp_path / "storage" / "evaluations" / "ours", policy, 0.2, 0.4)
    evaluation(tmp_path / "storage" / "evaluations" / "other", made / "plain", 0.2, 0.9)
    assert push(policy, "me/mine")[0] == 0
    (result,) = ModelCard.load(repository(hub) / "README.md").data.eval_results or []
    assert result.metric_value == 0.4
    other = tmp_path / "storage" / "evaluations" / "other"
    assert "no finished evaluation of the weights" in refused(policy, "me/second", "--evaluation", other)


def test_a_run_is_pushed_by_its_newest_checkpoint_with_the_licence_of_its_base(
    hub: HubServer, policy: Path, made: Path, tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "mine"
    for step in (1, 20):
        shutil.copytree(policy, run / "checkpoints" / f"step-{step:08}" / "model")
        for name in ("README.md", "manifest.json"):
            (run / "checkpoints" / f"step-{step:08}" / "model" / name).unlink()
    (run / "run.json").write_text("{}")
    (run / "config.yaml").write_text(
        yaml.safe_dump({"pipeline": "ref_tuning", "model": {"source": str(made / "plain")}})
    )
    assert push(run, "me/mine")[0] == 0
    card = (repository(hub) / "README.md").read_text()
    assert ModelCard(card).data.base_model == "org/base"
    assert "Trained with `wmtp train ref-tuning` for 20 steps. Made from `plain`." in card
    assert "policy with 3 heads" in check_model(repository(hub))


def test_the_same_again_commits_nothing_and_something_else_only_with_update(
    hub: HubServer, policy: Path, made: Path
) -> None:
    assert push(policy, "me/mine")[0] == push(policy, "me/mine")[0] == 0
    assert len(hub.messages) == 1
    (repository(hub) / "notes.txt").write_text("of somebody")
    message = refused(made / "plain", "me/mine")
    assert "holds other files already (README.md, config.json" in message
    assert "--update" in message
    assert push(made / "plain", "me/mine", "--update")[0] == 0
    assert check_model(repository(hub)).startswith("causal LM")
    assert not (repository(hub) / "notes.txt").exists()


def test_a_commit_of_somebody_else_in_between_is_not_overwritten(
    hub: HubServer, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert push(policy, "me/mine")[0] == 0
    (repository(hub) / "config.json").write_text("{}")
    validate = type(hub).next_fault

    def somebody(self: HubServer, request: str):  # type: ignore[no-untyped-def]
        if "preupload" in request:
            (repository(hub) / "theirs.txt").write_text("just now")
        return validate(self, request)

    monkeypatch.setattr(type(hub), "next_fault", somebody)
    assert "412" in refused(policy, "me/mine", "--update")
    assert (repository(hub) / "theirs.txt").exists()


def test_without_a_token_or_with_one_that_may_only_read_a_line_says_what_to_get(
    hub: HubServer, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.readers.add("hf_reads")
    monkeypatch.setenv("HF_TOKEN", "hf_reads")
    assert "me/mine: the token may not write there (403)" in refused(policy, "me/mine")
    monkeypatch.delenv("HF_TOKEN")
    message = refused(policy, "me/mine")
    assert "a token that may write is needed" in message
    assert f"{hub.endpoint}/settings/tokens" in message
    assert message.endswith("nothing was committed")
    assert not (hub.root / "models").exists()


def test_a_broken_upload_leaves_nothing_committed_and_the_same_command_repeats_it(hub: HubServer, policy: Path) -> None:
    hub.fault("PUT /upload", times=100, status=400)
    assert "nothing was committed" in refused(policy, "me/mine")
    assert {file.name for file in repository(hub).iterdir()} == {".gitattributes"}
    hub.faults.clear()
    assert push(policy, "me/mine")[0] == 0
    assert "policy with 3 heads" in check_model(repository(hub))


def test_a_card_that_the_hub_refuses_is_one_line_and_nothing_is_uploaded(hub: HubServer, policy: Path) -> None:
    hub.fault("validate-yaml", status=400, body=b'{"errors": [{"message": "license is unknown"}]}')
    assert "refuses the model card: Invalid metadata in README.md. - license is unknown" in refused(policy, "me/mine")
    assert hub.seen("upload") == []


def test_a_licence_can_be_given_and_only_one_that_the_hub_knows(hub: HubServer, policy: Path) -> None:
    assert "the nearest that it knows is apache-2.0" in refused(policy, "me/mine", "--license", "apache2")
    assert push(policy, "me/mine", "--license", "mit")[0] == 0
    assert ModelCard.load(repository(hub) / "README.md").data.license == "mit"


def test_what_is_no_policy_is_refused_before_the_hub_is_asked(hub: HubServer, policy: Path, tmp_path: Path) -> None:
    critic, empty = tmp_path / "critic", tmp_path / "empty"
    shutil.copytree(policy, critic)
    (critic / "config.json").write_text(json.dumps({"model_type": "weighted_mtp_value"}))
    empty.mkdir()
    assert "a critic" in refused(critic, "me/mine")
    assert "holds no model" in refused(empty, "me/mine")
    (critic / "config.json").write_bytes((policy / "config.json").read_bytes())
    (critic / "model.safetensors").unlink()
    assert "holds no weights" in refused(critic, "me/mine")
    assert "not an id on the hub" in refused(policy, "no id at all")
    assert hub.requests == []


def test_a_full_disk_is_one_line(hub: HubServer, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28), "/tmp/somewhere")

    monkeypatch.setattr(shutil, "copyfile", full)
    assert "the disk is full" in refused(policy, "me/mine")
