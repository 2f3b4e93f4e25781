"""`wmtp generate` as a user types it."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from completions_server import CompletionsServer
from test_evaluation import error_of, wmtp
from tiny_models import byte_tokenizer, tiny_model
from typer.testing import CliRunner, Result

from weighted_mtp.cli import app
from weighted_mtp.data.prompts import encode_prompt
from weighted_mtp.decoding.config import SamplingConfig
from weighted_mtp.decoding.sample import sample
from weighted_mtp.models.card import ModelOrigin
from weighted_mtp.models.convert import write_model
from weighted_mtp.models.mtp import MTPForCausalLM


def generated(model: Path, *more: str | Path) -> Result:
    result = wmtp("generate", "--checkpoint", model, "--max-new-tokens", "6", *more)
    assert result.exit_code == 0, result.output
    return result


def test_a_prompt_is_completed_and_nothing_else_is_on_standard_output(model: Path) -> None:
    tokenizer = byte_tokenizer()
    ids = encode_prompt(tokenizer, "def f(x):", special_tokens=False)
    ((expected,),) = sample(tiny_model(), tokenizer, [ids], SamplingConfig(max_new_tokens=6))
    assert generated(model, "--template", "plain", "--prompt", "def f(x):").stdout == f"{expected.text}\n"


def test_a_template_asks_for_it(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, alpaca = (generated(model, "--template", t, "--prompt", "def f(x):").stdout for t in ("plain", "alpaca"))
    assert plain != alpaca


def test_a_file_of_prompts_is_written_to_a_file(model: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    drawn = ("--n", "3", "--temperature", "1", "--batch-size", "2")
    generated(model, "--file", tmp_path / "prompts.jsonl", "--output", tmp_path / "out.jsonl", *drawn)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["prompt"], row["sample"]) for row in rows] == [(p, s) for p in "ab" for s in range(3)]
    assert {*rows[0]} == {"prompt", "sample", "text", "tokens", "finished"}
    shown = generated(model, "--file", tmp_path / "prompts.jsonl", *drawn).stdout
    assert shown.count("--- prompt 2, sample ") == 3
    assert rows[0]["text"] in shown


def test_a_text_file_and_standard_input_are_one_prompt(model: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt.py").write_text("a\nb")
    expected = generated(model, "--prompt", "a\nb").stdout
    assert generated(model, "--file", tmp_path / "prompt.py").stdout == expected
    options = ["generate", "--checkpoint", str(model), "--max-new-tokens", "6"]
    assert CliRunner().invoke(app, options, input="a\nb").stdout == expected


def test_prompts_are_typed_on_a_terminal(model: Path) -> None:
    expected = [generated(model, "--template", "plain", "--prompt", text).stdout.strip() for text in ("abc", "d\ne")]
    command = [sys.executable, "-m", "weighted_mtp.cli", "generate", "--checkpoint", str(model), "--template", "plain"]
    ours, theirs = pty.openpty()
    with (
        subprocess.Popen(
            [*command, "--max-new-tokens", "6"], stdin=theirs, stdout=subprocess.PIPE, text=True
        ) as process,
        os.fdopen(ours, "w") as keyboard,
    ):
        keyboard.write("abc\nd\\\ne\n\nquit\n")
        keyboard.flush()
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert all(text in said for text in expected)


def test_a_server_completes(tmp_path: Path) -> None:
    with CompletionsServer() as server:
        server.text = lambda prompt, _seed: ["you", "said", *prompt.split()]
        result = wmtp("generate", "--base-url", server.base_url, "--prompt", "hello")
        assert result.stdout == "you said hello\n"
        assert server.paths == ["/v1/chat/completions"]
        wmtp("generate", "--base-url", server.base_url, "--prompt", "hello", "--template", "plain")
        assert server.paths[1:] == ["/v1/completions"]
        assert server.seen[-1]["prompt"] == "hello"


def test_drafts_and_what_was_accepted_of_them_are_shown(tmp_path: Path) -> None:
    policy = MTPForCausalLM.from_base(tiny_model(), 3, "copy")
    write_model(policy, byte_tokenizer(), tmp_path / "policy", ModelOrigin("policy", "A test."))
    plain = generated(tmp_path / "policy", "--template", "plain", "--prompt", "def f(x):")
    shown = generated(tmp_path / "policy", "--template", "plain", "--prompt", "def f(x):", "--show-drafts")
    text, account, *passes = shown.stdout.split("\n")[:-1]
    assert plain.stdout == f"{text}\n"
    n_passes, accepted, drafted = map(int, re.findall(r"\d+", account))
    assert n_passes == len(passes)
    assert drafted == 2 * n_passes
    signs = [re.findall(r' ([+=-])"', line) for line in passes]
    assert all(found.count("=") == 1 and found.count("+") + found.count("-") == 2 for found in signs)
    assert sum(found.count("+") for found in signs) == accepted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", "a", "--file", "b"], "give either --prompt or --file"),
        (["--file", "missing.jsonl"], "missing.jsonl"),
        (["--file", "missing.txt"], "--file missing.txt: cannot be read as text"),
        (["--file", "@"], "no key prompt with a text; it has ['text']"),
        (["--base-url", "http://127.0.0.1:9/v1"], "give either --checkpoint"),
        (["--prompt", "a", "--show-drafts"], "draft=heads has no effect: the model has no prediction heads"),
        (["--prompt", "a", "--show-drafts", "--engine", "vllm"], "--show-drafts has no effect with --engine vllm"),
        ([], "standard input is empty: give --prompt or --file"),
        (["--prompt", "a", "--temperature", "0", "--n", "2"], "n_samples=2 would be equal at temperature=0"),
    ],
)
def test_what_cannot_be_done_is_one_line(model: Path, tmp_path: Path, options: list[str], message: str) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    filled = [str(tmp_path / "rows.jsonl") if option == "@" else option for option in options]
    assert message in error_of(wmtp("generate", "--checkpoint", model, *filled))
