"""Bad input of every section and every place: one line that names it, exit code 2, and nothing lost."""

import hashlib
import shutil
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from method_storage import CONFIGS, Storage, error_of, new_storage
from pydantic import BaseModel
from typer.testing import CliRunner, Result

from weighted_mtp.cli import app
from weighted_mtp.config import load_config
from weighted_mtp.errors import UserError
from weighted_mtp.pipelines import command
from weighted_mtp.pipelines.config import (
    DatasetsConfig,
    EvaluationConfig,
    GenerateConfig,
    LabelConfig,
    ModelSetupConfig,
    WeightsConfig,
)
from weighted_mtp.pipelines.critic import CriticConfig
from weighted_mtp.pipelines.run_baseline import BaselineConfig
from weighted_mtp.pipelines.run_rho1 import Rho1RunConfig
from weighted_mtp.pipelines.run_third_party import ThirdPartyConfig
from weighted_mtp.pipelines.run_verifiable import VerifiableConfig
from weighted_mtp.study.config import StudyConfig

GIVEN = {
    BaselineConfig: ["run.name=x"],
    CriticConfig: ["run.name=x", "value.source=x"],
    VerifiableConfig: ["run.name=x", "critic=x"],
    Rho1RunConfig: ["run.name=x", "reference=x"],
    ThirdPartyConfig: ["run.name=x", "token_weighting=module:Name"],
    EvaluationConfig: ["benchmark=micro", "output=x", "checkpoint=x"],
    GenerateConfig: ["checkpoint=x"],
    DatasetsConfig: ["datasets=mbpp"],
    LabelConfig: ["evaluations=[x]", "name=x"],
    WeightsConfig: ["critic=x"],
    ModelSetupConfig: [],
    StudyConfig: [],
}
"""What a configuration needs at least."""
FILES = {StudyConfig: CONFIGS / "demo.yaml"}
ANY_NUMBER = {"weighting.terminal_reward"}
TOO_LARGE = str(10**30)


def kinds_of(annotation: object) -> set[object]:
    """The plain types in an annotation; for a Literal, `typing.Literal`."""
    if typing.get_origin(annotation) is typing.Literal:
        return {typing.Literal}
    inner = typing.get_args(annotation)
    return {kind for part in inner for kind in kinds_of(part)} if inner else {annotation}


def sections_in(annotation: object) -> list[type[BaseModel]]:
    found = [kind for kind in kinds_of(annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return sorted(found, key=lambda section: section.__name__)


def choosing(option: str, section: type[BaseModel]) -> list[str]:
    """What makes `option` this section, where it can be several."""
    tag = section.model_fields.get("objective")
    return [f"{option}.objective={typing.get_args(tag.annotation)[0]}"] if tag else []


def options(schema: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, object, list[str]]]:
    """Option → its annotation, and what else must be given for it to be one."""
    for name, field in schema.model_fields.items():
        option, container = f"{prefix}{name}", typing.get_origin(field.annotation) is dict
        yield option, field.annotation, []
        for section in [] if container else sections_in(field.annotation):
            for inner, annotation, more in options(section, f"{option}."):
                yield inner, annotation, [*choosing(option, section), *more]


def bad_values(option: str, annotation: object) -> Iterator[str]:
    kinds = kinds_of(annotation)
    if typing.Any in kinds:
        return
    yield "{zzz: {yyy: 1}}"
    if sections_in(annotation):
        yield from ("7", "[1]")
    elif kinds & {int, float}:
        yield from ("many", "true", ".nan", TOO_LARGE, *(["1.5"] if float not in kinds else []))
        yield from [] if option in ANY_NUMBER else ["-1"]
    elif kinds & {str, Path}:
        yield "''"
    else:
        yield "nonsense"


CASES = {
    " ".join([schema.__name__, option, *chosen]): (schema, option, annotation, chosen)
    for schema in GIVEN
    for option, annotation, chosen in options(schema)
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_value_of_any_option_is_one_line_that_names_it(case: str) -> None:
    schema, option, annotation, chosen = CASES[case]
    for value in bad_values(option, annotation):
        with pytest.raises(UserError) as raised:
            load_config(schema, FILES.get(schema), [*GIVEN[schema], *chosen, f"{option}={value}"])
        assert "\n" not in str(raised.value)
        assert option.rpartition(".")[2] in str(raised.value)


@pytest.mark.parametrize("schema", GIVEN)
def test_an_unknown_key_in_any_section_is_one_line_with_a_known_one(schema: type) -> None:
    places = [
        [*choosing(option, section), f"{option}.zzz=1"]
        for option, annotation, _ in options(schema)
        if typing.get_origin(annotation) is not dict
        for section in sections_in(annotation)
    ]
    for place in [["zzz=1"], *places]:
        with pytest.raises(
            UserError, match=r"unknown option `[\w.]*zzz`; (the nearest known one|it|here it) is"
        ) as raised:
            load_config(schema, FILES.get(schema), [*GIVEN[schema], *place])
        assert "\n" not in str(raised.value)


def test_all_options_of_all_pipelines_are_walked() -> None:
    walked = {" ".join(case.split()[:2]) for case in CASES}
    assert {"BaselineConfig optim.betas", "CriticConfig critic.margin", "VerifiableConfig weighting.beta"} <= walked
    assert {"EvaluationConfig sampling.top_p", "StudyConfig seeds", "Rho1RunConfig rho1.k_percent"} <= walked
    assert len(walked) > 250


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    storage = new_storage(tmp_path_factory.mktemp("storage"))
    storage.train("baseline", "policy", "model.source=micro")
    storage.verifiable("weighted")
    return storage


def contents(folder: Path) -> dict[str, str]:
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.rglob("*")) if f.is_file()}


def cut_weights(run: Path) -> None:
    (file,) = (run / "checkpoints" / "step-00000004" / "model").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:1000])


def broken_config(run: Path) -> None:
    (run / "checkpoints" / "step-00000004" / "model" / "config.json").write_text('{"model_type": ')


def no_tokenizer(run: Path) -> None:
    for file in (run / "checkpoints" / "step-00000004" / "model").glob("tokenizer*"):
        file.unlink()


def no_checkpoint(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")


def train(storage: Storage, pipeline: str, *options: str) -> Result:
    return storage.command(pipeline, "new", *options)


def wmtp(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


USES: dict[str, tuple[str, Callable[[Storage, Path, Path], Result]]] = {
    "a policy to train": ("policy", lambda s, run, _: train(s, "baseline", f"model.source={run}")),
    "a critic's backbone": ("reference", lambda s, run, _: train(s, "critic", f"value.source={run}")),
    "a critic": ("outcome", lambda s, run, _: train(s, "verifiable", *s.from_policy(), f"critic={run}")),
    "a reference": ("reference", lambda s, run, _: train(s, "rho1", *s.from_policy(), f"reference={run}")),
    "a model to evaluate": (
        "policy",
        lambda s, run, out: wmtp(
            *("evaluate", "--benchmark", "micro", "--checkpoint", run, "--output", out),
            *("--data-root", s.folder / "datasets"),
        ),
    ),
    "a run to show": ("weighted", lambda s, run, out: wmtp("weights", "--run", run, "--output", out / "page.html")),
    "a critic to show": (
        "outcome",
        lambda s, run, out: wmtp("weights", "--critic", run, "--output", out / "page.html"),
    ),
    "a policy to export": ("policy", lambda s, run, out: wmtp("models", "export", run, out)),
    "a model to convert": ("policy", lambda s, run, out: wmtp("models", "convert", run, out)),
}


@pytest.mark.parametrize("damage", [cut_weights, broken_config, no_tokenizer, no_checkpoint])
@pytest.mark.parametrize("use", USES)
def test_a_damaged_run_is_one_line_wherever_it_is_used_and_stays_as_it_is(
    storage: Storage, tmp_path: Path, use: str, damage: Callable[[Path], None]
) -> None:
    name, use_it = USES[use]
    run = tmp_path / "damaged"
    shutil.copytree(storage.run(name), run)
    damage(run)
    before = contents(run)
    line = error_of(use_it(storage, run, tmp_path / "out"))
    assert str(run) in line
    assert contents(run) == before
    assert not (tmp_path / "out").exists()
    shutil.rmtree(storage.run("new"), ignore_errors=True)


@pytest.mark.parametrize("pipeline", ["ref-tuning", "baseline", "critic", "verifiable", "rho1", "third-party"])
def test_broken_yaml_is_one_line_for_every_pipeline(tmp_path: Path, pipeline: str) -> None:
    (tmp_path / "broken.yaml").write_text("run: {name: x\n")
    assert "broken.yaml: line 2, column 1 is not valid YAML" in error_of(
        wmtp("train", pipeline, "--config", tmp_path / "broken.yaml")
    )


EVALUATE = ["evaluate", "--benchmark", "micro", "--output", "out", "--data-root", "DATA"]
DATA = ["data", "--storage", "out", "--datasets"]
CONFIGURATIONS = ["none", "a file", "a folder", "broken.yaml", "foreign.yaml"]
COMMANDS = [
    [*EVALUATE, "--checkpoint", "RUN", "--temperature", "nan"],
    [*EVALUATE, "--checkpoint", "RUN", "--k", "0"],
    [*EVALUATE, "--checkpoint", "RUN", "--n", "0"],
    [*EVALUATE, "--checkpoint", "RUN", "--seed", "-1"],
    [*EVALUATE, "--checkpoint", "RUN", "--seed", TOO_LARGE],
    [*EVALUATE, "--checkpoint", "RUN", "--dtype", "float16"],
    [*EVALUATE, "--checkpoint", "RUN", "--first", "0"],
    [*EVALUATE, "--checkpoint", "RUN", "--output", "a file"],
    [*EVALUATE, "--checkpoint", "RUN", "--data-root", "a file"],
    [*EVALUATE, "--checkpoint", "RUN", "--split", "none"],
    [*EVALUATE, "--checkpoint", "RUN", "--template", "chat"],
    [*EVALUATE, "--checkpoint", ""],
    [*EVALUATE, "--checkpoint", "a file"],
    [*EVALUATE, "--checkpoint", "a folder"],
    [*EVALUATE, "--samples", "a folder"],
    [*EVALUATE, "--samples", "empty.jsonl"],
    [*EVALUATE, "--samples", "foreign.jsonl"],
    [*EVALUATE, "--samples", "binary.jsonl"],
    *([*("models", "convert"), source, "out"] for source in ("", "a file", "a folder", "no/such/model")),
    ["models", "convert", "RUN", "a file"],
    ["models", "convert", "RUN", "out", "--n-future-tokens", "99"],
    *(["models", "export", source, "out"] for source in ("a file", "a folder", "no/such/model")),
    ["models", "export", "RUN", "a file"],
    ["models", "export", "RUN", "out", "--format", "adapter"],
    ["models", "setup", "--model", "", "--storage", "out"],
    ["models", "setup", "--model", "a folder", "--storage", "out"],
    ["models", "setup", "--steps", "none", "--storage", "out"],
    *(["compare", arm, "no/such/arm"] for arm in ("a file", "a folder", "no/such/evaluation")),
    *(["weights", "--run", run] for run in ("a file", "a folder", "RUN")),
    ["weights", "--critic", "RUN"],
    *(["label", evaluation, "--name", "own"] for evaluation in ("a file", "a folder", "no/such/evaluation")),
    *(
        [*command, "--config", file]
        for command in (["plan"], ["study"])
        for file in ("none", "a folder", "broken.yaml")
    ),
    *(["plan", "--config", file] for file in ("foreign.yaml", "a file")),
    *(["study", "--config", file] for file in ("foreign.yaml", "a file")),
    *(
        ["data", "--datasets", "mbpp", "--storage", "out", "--source", source]
        for source in ("none", "a folder", "a file")
    ),
    *(["data", "--datasets", name, "--storage", "out"] for name in ("none", "")),
    ["data", "--datasets", "mbpp", "--languages", "klingon", "--storage", "out"],
    ["data", "--datasets", "mbpp", "--steps", "none", "--storage", "out"],
    *(["verify", "--storage", storage] for storage in ("none", "a file")),
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_bad_arguments_of_any_command_are_one_line_and_leave_what_is_there(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    (tmp_path / "a folder").mkdir()
    for name, text in {
        "a file": "text",
        "broken.yaml": "run: [1",
        "foreign.yaml": "zzz: 1",
        "empty.jsonl": "",
        "foreign.jsonl": '{"task_id": "Other/0", "completion": ""}\n',
    }.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\0")
    monkeypatch.chdir(tmp_path)
    before, run = contents(tmp_path), contents(storage.run("policy"))
    places = {"RUN": str(storage.run("policy")), "DATA": str(storage.folder / "datasets")}
    assert error_of(wmtp(*(places.get(argument, argument) for argument in arguments)))
    assert before.items() <= contents(tmp_path).items()
    assert contents(storage.run("policy")) == run


def test_a_list_in_place_of_a_section_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("run: [1]\n")
    error_of(wmtp("train", "baseline", "--config", tmp_path / "list.yaml", "--override", "run.name=x"))


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nmore"), None],
    ids=["Python", "GPU", "CPU"],
)
def test_too_little_memory_is_one_line_with_what_takes_less(error: Exception | None) -> None:
    if error is None:
        with pytest.raises(RuntimeError) as raised:
            torch.empty(10**15)
        error = raised.value
    line = command.one_line(error)
    assert line is not None
    assert line.startswith("out of memory (")
    assert "data.max_tokens" in line
    assert "\n" not in line
