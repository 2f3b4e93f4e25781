"""The README's section on one's own data, run as it stands: from a file of problems to pass@k."""

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from weighted_mtp.cli import app
from weighted_mtp.config import load_config
from weighted_mtp.data.sources.micro.dataset import write_micro
from weighted_mtp.data.sources.micro.generator import MicroConfig
from weighted_mtp.pipelines.kinds import PIPELINES
from weighted_mtp.study.config import StudyConfig

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["training.max_steps=2", "training.validate_every=2", "training.save_every=2", "optim.warmup_steps=1"]


def wmtp(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def commands(readme: str, title: str) -> list[list[str]]:
    """The commands of a section, each from the word after `wmtp` on."""
    section = re.search(rf"## {title}\n(.*?)\n## ", (ROOT / readme).read_text(), re.DOTALL)
    assert section is not None
    (block,) = re.findall(r"```bash\n(.*?)```", section[1], re.DOTALL)
    return [shlex.split(line, comments=True)[3:] for line in block.splitlines() if line.startswith("uv run wmtp")]


def test_the_korean_readme_has_the_same_commands() -> None:
    assert commands("README.ko.md", "내 데이터로 학습하기") == commands("README.md", "Your own data")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example and a micro model in the place of the README's."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "examples").symlink_to(ROOT / "examples")
    write_micro(folder / "storage" / "datasets", MicroConfig(n_train=60, n_validation=10, n_test=12, n_test_pairs=4))
    return folder


def test_own_problems_become_a_dataset_configurations_a_policy_and_pass_at_k(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work)
    small = wmtp("models", "setup", "--create-micro", "--micro-type", "reference")
    assert small.exit_code == 0, small.output
    said = {}
    for command in commands("README.md", "Your own data"):
        if "--model" in command:
            command[command.index("--model") + 1] = "storage/models/micro-reference"
        flags = [part for option in SHORT for part in ("--override", option)] if command[0] == "train" else []
        done = wmtp(*command, *flags)
        assert done.exit_code == 0, f"{command}: {done.output}"
        said[command[0]] = done.output
    assert "10 of 10" in said["data"]  # of the training split's correct programs all pass
    assert "wmtp train verifiable --config configs/mine/policy.yaml" in said["recipe"]
    report = json.loads((work / "storage" / "evaluations" / "mine" / "report.json").read_text())
    assert report["config"]["benchmark"] == "mine"
    assert len((work / "storage" / "evaluations" / "mine" / "results.jsonl").read_text().splitlines()) == 2
    for name in ("reference", "baseline", "critic", "policy"):
        file = work / "configs" / "mine" / f"{name}.yaml"
        kind = {"reference": "ref_tuning", "policy": "verifiable"}.get(name, name)
        assert load_config(PIPELINES[kind].schema, file).run.name == f"mine/{name}"
    assert load_config(StudyConfig, work / "configs" / "mine" / "study.yaml").benchmark == "mine"


def test_a_recipe_for_a_micro_model_can_be_planned_before_anything_is_trained(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work)
    assert wmtp("data", "--import", "examples/own_data/problems.jsonl", "--name", "small").exit_code == 0
    written = wmtp("recipe", "small", "--model", "micro")
    assert written.exit_code == 0, written.output
    assert load_config(PIPELINES["baseline"].schema, Path("configs/small/baseline.yaml")).model.source == "micro"
    for name in ("reference", "critic", "policy"):  # study.yaml beside them has names that a study fills in
        planned = wmtp("plan", "--config", f"configs/small/{name}.yaml")
        assert planned.exit_code == 0, planned.output


def test_a_micro_models_tokenizer_is_that_of_the_storage(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    elsewhere = Path("elsewhere")
    (elsewhere / "datasets").mkdir(parents=True)
    (elsewhere / "datasets" / "micro").symlink_to(work / "storage" / "datasets" / "micro")
    file = ("--import", "examples/own_data/problems.jsonl", "--name", "small")
    assert wmtp("data", *file, "--steps", "process", "--storage", "elsewhere").exit_code == 0
    assert wmtp("recipe", "small", "--model", "micro", "--storage", "elsewhere", "--output", "there").exit_code == 0
    model = load_config(PIPELINES["ref_tuning"].schema, Path("there/reference.yaml")).model
    assert model.micro_tokenizer == elsewhere / "datasets" / "micro" / "tokenizer"


def test_known_correct_programs_pass_and_known_incorrect_ones_do_not(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work)
    rows = [json.loads(line) for line in (work / "examples" / "own_data" / "problems.jsonl").read_text().splitlines()]
    tested = [row for row in rows if row["split"] == "test"]
    samples = [
        {"task_id": f"mine/{row['id']}", "completion": program}
        for row in tested
        for program in (row["correct"][0], row["incorrect"][0])
    ]
    Path("samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    options = ("--benchmark", "mine", "--samples", "samples.jsonl", "--output", "scored")
    assert wmtp("data", "--import", "examples/own_data/problems.jsonl", "--name", "mine").exit_code == 0
    assert wmtp("evaluate", *options).exit_code == 0
    results = [json.loads(line) for line in Path("scored/results.jsonl").read_text().splitlines()]
    assert [result["passed"] for result in results] == [True, False, True, False]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["data", "--import", "x.jsonl"], "give --name NAME, too"),
        (["data", "--name", "x"], "give either --datasets NAMES, or --import FILE"),
        (["data", "--import", "x.jsonl", "--name", "mbpp"], "--name mbpp: is that of another dataset"),
        (["data", "--import", "nowhere.jsonl", "--name", "x"], "--import nowhere.jsonl: does not exist: give a file"),
        (["data", "--import", "x", "--name", "x", "--source", "y"], "--source y has no effect with --import"),
        (["recipe", "nowhere", "--model", "x"], "wmtp data --import FILE --name nowhere"),
        (["evaluate", "--benchmark", "nowhere", "--samples", "x", "--output", "y"], "a dataset of your own"),
    ],
)
def test_a_mistyped_command_is_one_line(
    work: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: str
) -> None:
    monkeypatch.chdir(work)
    done = wmtp(*arguments)
    assert done.exit_code == 2
    assert expected in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.output


def test_an_untested_problem_is_not_passed_by_anything(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    Path("prose.jsonl").write_text(json.dumps({"prompt": "Say x.", "completion": "x", "split": "test"}) + "\n")
    assert wmtp("data", "--import", "prose.jsonl", "--name", "prose", "--steps", "process").exit_code == 0
    done = wmtp("evaluate", "--benchmark", "prose", "--samples", "x", "--output", "y")
    assert done.exit_code == 2
    assert "1 problem without tests, such as prose/1" in done.stderr
