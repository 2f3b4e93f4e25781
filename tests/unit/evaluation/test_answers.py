"""A model is asked: what is written, and that a killed sampling ends with the bytes of one that was not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from splits import write_split
from tiny_models import byte_tokenizer, tiny_model

from weighted_mtp.data.schema import Problem, TestCase
from weighted_mtp.decoding.config import SamplingConfig
from weighted_mtp.decoding.engine import TorchEngine
from weighted_mtp.evaluation.answers import draw_samples, model_checksum
from weighted_mtp.evaluation.benchmarks import Benchmark
from weighted_mtp.evaluation.evaluation_folder import EvaluationFolder, Origin
from weighted_mtp.evaluation.problems import ProblemSet
from weighted_mtp.evaluation.respondents import Respondent, load_respondent
from weighted_mtp.models.card import ModelOrigin
from weighted_mtp.models.convert import write_model

PROBLEMS = [
    Problem(f"x/{i}", "x", "test", "say " * (1 + i % 3) + str(i), tests=(TestCase("stdio", "", "hello"),))
    for i in range(5)
]
SAMPLING = SamplingConfig(max_new_tokens=12, temperature=1.0, n_samples=3, batch_size=4, seed=5)
ORIGIN = Origin(benchmark="x", split="test", first=None, problems_sha256="p", model_sha256="m", sampling=SAMPLING)


@pytest.fixture(scope="module")
def respondent() -> Respondent:
    model = tiny_model()
    model.generation_config.eos_token_id = list(range(0, 257, 10))  # completions of many lengths
    return Respondent(TorchEngine(model, byte_tokenizer()), "plain", byte_tokenizer())


@pytest.fixture
def problems(tmp_path: Path) -> ProblemSet:
    write_split(tmp_path / "datasets" / "x" / "test", PROBLEMS, [])
    return ProblemSet(tmp_path / "datasets" / "x" / "test")


def drawn(respondent: Respondent, problems: ProblemSet, output: Path) -> bytes:
    with EvaluationFolder(output, ORIGIN) as folder:
        draw_samples(respondent, Benchmark("x"), problems, SAMPLING, folder, output)
        assert folder.has_samples
    return (output / "samples.jsonl").read_bytes()


def test_samples_stand_in_the_order_of_problems_and_samples(
    respondent: Respondent, problems: ProblemSet, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in drawn(respondent, problems, tmp_path / "out").splitlines()]
    assert [(row["task_id"], row["sample"]) for row in rows] == [(f"x/{p}", s) for p in range(5) for s in range(3)]
    assert len({row["text"] for row in rows}) > 10
    assert {row["finished"] for row in rows} == {"eos", "length"}
    assert {row["taken"] for row in rows} == {"whole text"}
    assert not (tmp_path / "out" / "samples.jsonl.partial").exists()


@pytest.mark.parametrize(("template", "expected"), [("plain", "efghiabc"), ("chat", "efghi")])
def test_completions_end_before_the_users_stops_and_a_continuation_also_before_the_benchmarks(
    respondent: Respondent, problems: ProblemSet, tmp_path: Path, template: str, expected: str
) -> None:
    sampling = SAMPLING.model_copy(update={"stop": tuple("efghi")})
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }}"
    asked = replace(respondent, tokenizer=tokenizer, template=template)
    with EvaluationFolder(tmp_path / "out", ORIGIN) as folder:
        draw_samples(asked, Benchmark("x", stop=tuple("abc")), problems, sampling, folder, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert any(row["finished"] == "stop" for row in rows)
    assert not any(stop in row["text"] for row in rows for stop in expected)
    assert template == "plain" or any(stop in row["text"] for row in rows for stop in "abc")


class Killed(BaseException):
    """Stands in for SIGKILL: nothing catches it."""


@pytest.mark.parametrize("lines", [0, 3, 4, 9, 15], ids="{} lines kept".format)
def test_a_killed_sampling_ends_with_the_same_bytes(
    respondent: Respondent,
    problems: ProblemSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    lines: int,
) -> None:
    expected = drawn(respondent, problems, tmp_path / "whole")

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("weighted_mtp.evaluation.answers.write_jsonl", killed)
        with pytest.raises(Killed):
            drawn(respondent, problems, tmp_path / "out")
    partial = tmp_path / "out" / "samples.jsonl.partial"
    kept = partial.read_bytes().splitlines(keepends=True)[: lines + 1]
    partial.write_bytes(b"".join(kept)[: sum(map(len, kept[:lines])) + 10])  # the last of them is torn
    capsys.readouterr()
    assert drawn(respondent, problems, tmp_path / "out") == expected
    begun = lines if lines == 15 else lines // 4 * 4
    assert f"sampling x: {begun}/15" in capsys.readouterr().err


def test_a_models_checksum_is_that_of_its_files(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for folder, seed in ((first, 0), (second, 0)):
        write_model(tiny_model(seed=seed), byte_tokenizer(), folder, ModelOrigin(folder.name, "A test."))
    expected = model_checksum(first)
    assert model_checksum(second) == expected  # whatever card and manifest say
    (first / "manifest.json").unlink()
    assert model_checksum(first) == expected
    weights = bytearray((first / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (first / "model.safetensors").write_bytes(weights)
    assert model_checksum(first) != expected


def test_a_model_is_asked_as_its_run_was_trained(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints" / "step-00000004" / "model"
    write_model(tiny_model(), byte_tokenizer(), folder, ModelOrigin("tiny", "A test."))
    cpu = torch.device("cpu")
    assert load_respondent(folder, None, "float32", cpu).template == "alpaca"
    (tmp_path / "run" / "run.json").write_text("{}")
    (tmp_path / "run" / "config.yaml").write_text("data: {template: plain}")
    assert load_respondent(folder, None, "float32", cpu).template == "plain"
    assert load_respondent(folder, "chat", "float32", cpu).template == "chat"
