"""`wmtp evaluate` of a model behind a server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from completions_server import MODEL, CompletionsServer, Fault
from tenacity import wait_none
from test_evaluation import asked, error_of, wmtp
from tiny_models import byte_tokenizer
from typer.testing import Result

from weighted_mtp.decoding import server as server_module

CHAT = "{{ bos_token or '' }}<user>{{ messages[0]['content'] }}</user>"


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_WAIT", wait_none())


@pytest.fixture
def server() -> Iterator[CompletionsServer]:
    with CompletionsServer() as running:
        yield running


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a chat template that writes BOS, which the tokenizer puts before a text by itself."""
    folder = tmp_path_factory.mktemp("tokenizer")
    own = byte_tokenizer()
    own.chat_template = CHAT
    own.save_pretrained(folder)
    return folder


def from_server(data: Path, base_url: str, output: Path, *more: str | Path) -> Result:
    options = ["--benchmark", "micro", "--data-root", data, "--base-url", base_url, "--output", output]
    return wmtp("evaluate", *options, "--n", "2", "--temperature", "1", "--max-new-tokens", "9", *more)


def rows(output: Path, name: str = "samples.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / name).read_text().splitlines()]


def test_a_servers_answers_are_recorded_like_a_models(
    data: Path,
    server: CompletionsServer,
    tmp_path: Path,
) -> None:
    result = from_server(data, server.base_url, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert (
        f"the model that is served, asked as chat, with the server's template; {server.base_url}" not in result.stderr
    )
    assert f"{server.base_url}, 64 requests at a time" in result.stderr
    found = rows(tmp_path / "out")
    assert [(row["task_id"], row["sample"]) for row in found] == [
        (f"micro/test/{p}", s) for p in range(12) for s in range(2)
    ]
    assert {*found[0]} >= {"text", "taken", "tokens", "finished"}
    assert {row["finished"] for row in found} == {"eos"}
    assert set(server.paths) == {"/v1/chat/completions"}
    assert len(rows(tmp_path / "out", "results.jsonl")) == 24
    origin = json.loads((tmp_path / "out" / "evaluation.json").read_text())["origin"]
    assert (origin["engine"], origin["served_model"], origin["template"]) == ("server", MODEL, "chat")


def test_an_evaluation_whose_server_fails_is_resumed_sample_by_sample(
    data: Path,
    server: CompletionsServer,
    tmp_path: Path,
) -> None:
    assert from_server(data, server.base_url, tmp_path / "whole").exit_code == 0
    server.seen.clear()
    server.faults = [Fault(9), Fault(status=400, message="no more")]
    failed = from_server(data, server.base_url, tmp_path / "out", "--batch-size", "1")
    assert "no more" in error_of(failed)
    kept = len(rows(tmp_path / "out", "samples.jsonl.partial"))
    assert kept == 7  # and two requests looked whether the server knows seeds
    server.seen.clear()
    with CompletionsServer() as moved:
        resumed = from_server(data, moved.base_url, tmp_path / "out", "--batch-size", "5")
        assert resumed.exit_code == 0, resumed.output
        assert len(moved.seen) == 24 - kept + 2
    assert f"sampling micro: {kept}/24" in resumed.stderr
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "path", "begins"),
    [
        (["--template", "plain"], "/v1/completions", ""),
        (["--template", "alpaca"], "/v1/completions", "Below is an instruction"),
        (["--template", "chat"], "/v1/chat/completions", ""),
        (["--tokenizer", "@"], "/v1/completions", "<user>"),
    ],
)
def test_a_template_is_rendered_here_but_for_the_servers_own(
    data: Path,
    tokenizer: Path,
    server: CompletionsServer,
    tmp_path: Path,
    options: list[str],
    path: str,
    begins: str,
) -> None:
    filled = [str(tokenizer) if option == "@" else option for option in options]
    result = from_server(data, server.base_url, tmp_path / "out", *filled)
    assert result.exit_code == 0, result.output
    assert set(server.paths) == {path}
    assert all(body.get("prompt", "").startswith(begins) for body in server.seen)


def test_what_a_server_learned_from_is_labelled(data: Path, server: CompletionsServer, tmp_path: Path) -> None:
    server.text = lambda prompt, seed: ["def", f"f{seed}():", "pass"]
    for split in ("train", "validation"):
        assert from_server(data, server.base_url, tmp_path / split, "--split", split, "--first", "4").exit_code == 0
    (tmp_path / "storage").mkdir()
    (tmp_path / "storage" / "datasets").symlink_to(data)
    result = wmtp(
        "label", tmp_path / "train", tmp_path / "validation", "--name", "own", "--storage", tmp_path / "storage"
    )
    assert result.exit_code == 0, result.output
    assert "16 samples in" in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dtype", "bfloat16"], "--dtype has no effect with --base-url: the server decides"),
        (["--engine", "vllm"], "--engine has no effect with --base-url: the server decides"),
        (["--checkpoint", "x"], "give one of --checkpoint"),
        (["--draft", "none"], "--draft none has no effect with --base-url"),
        (["--date", "2020-02-02"], "--date has no effect: the server renders prompts; give --tokenizer"),
        (["--template", "plain", "--tokenizer", "x"], "--tokenizer has no effect with --template plain"),
        (["--model", "other"], "--model other is not served; these are there: tiny"),
        (["--api-key-env", "NO_SUCH_KEY"], "--api-key-env NO_SUCH_KEY: that environment variable is not set"),
        (["--request-timeout", "0"], "`server.request_timeout`: Input should be greater than 0"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_an_option_without_effect_on_a_server_is_one_line(
    data: Path,
    server: CompletionsServer,
    tmp_path: Path,
    options: list[str],
    message: str,
) -> None:
    assert message in error_of(from_server(data, server.base_url, tmp_path / "out", *options))
    assert not (tmp_path / "out").exists()


def test_options_of_a_server_need_one(data: Path, model: Path, tmp_path: Path) -> None:
    result = wmtp(*asked(data, model, tmp_path / "out", "--model", "x"))
    assert "--base-url must be given" in error_of(result)
    assert "is no address" in error_of(from_server(data, "localhost:8000", tmp_path / "out"))
