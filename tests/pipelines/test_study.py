"""`wmtp study` as a user types it: what runs once, what once a seed, and a dataset of the policy's own programs."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf
from typer.testing import CliRunner, Result

from weighted_mtp.cli import app
from weighted_mtp.data.sources.micro.dataset import write_micro
from weighted_mtp.data.sources.micro.generator import MicroConfig
from weighted_mtp.data.tables import read_problems, read_solutions
from weighted_mtp.pipelines.config import EvaluationConfig
from weighted_mtp.pipelines.run_evaluation import holds_evaluation
from weighted_mtp.study.config import StudyConfig
from weighted_mtp.study.run import StudyResult, compared, run_study, time_table
from weighted_mtp.study.steps import bottlenecks, steps_of

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "local"
FILE = CONFIGS / "study.yaml"
TINY = ["model.micro.hidden_size=32", "model.micro.num_attention_heads=2", "model.micro.num_hidden_layers=2"]
ANY_LENGTH = "data.pairs.length_balanced=false"  # so few programs may have no two of about one length


def nested(*options: str) -> Any:
    """Options `a.b=c` as in a file."""
    return OmegaConf.to_container(OmegaConf.from_dotlist(list(options)))


def training(pipeline: str, *override: str, **more: Any) -> dict[str, Any]:
    config = CONFIGS / f"{pipeline}_local.yaml"
    return {"pipeline": pipeline, "config": str(config), "override": nested(*override), **more}


POLICY = training(
    "baseline", "model.source=micro", "model.micro_tokenizer=${datasets}/micro/tokenizer", *TINY, per_seed=True
)
OWN = {"per_seed": True, "pipeline": "own_programs", "checkpoint": "${policy}", "n_samples": 3, "keep_solutions": True}
STUDY: dict[str, Any] = {
    "name": "s",
    "seeds": [3, 5],
    "stages": {
        "reference": training("ref_tuning", "model.micro_tokenizer=${datasets}/micro/tokenizer", *TINY),
        "policy": POLICY,
        "own": {**OWN, "first": 6},
        "critic": training("critic", "value.source=${reference}", "data.dataset=${own}", ANY_LENGTH, per_seed=True),
    },
    "arms": {
        "on-own": training("baseline", "model.source=${policy}", "data.dataset=${own}"),
        "weighted": training("verifiable", "model.source=${policy}", "critic=${critic}", against="shuffled"),
        "shuffled": training("verifiable", "model.source=${policy}", "critic=${critic}", "control=shuffled"),
        "critic-as-policy": {"pipeline": "evaluation", "checkpoint": "${critic}"},
    },
    "override": {
        "training": {"max_steps": 2, "save_every": 2, "validate_every": 2},
        "optim": {"warmup_steps": 1},
        "tracking": "none",
    },
    "sampling": {"max_new_tokens": 8},
    "further_temperatures": [0.5],
}


def study(storage: Path, config: Mapping[str, Any]) -> Result:
    file = storage / "study.yaml"
    file.write_text(yaml.safe_dump({**config, "storage": str(storage)}, sort_keys=False))
    return CliRunner().invoke(app, ["study", "--config", str(file)])


def error_of(result: Result) -> str:
    """The one line that the command ended with."""
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.stderr.splitlines()[-1]


def options(run: Path) -> dict[str, Any]:
    return yaml.safe_load((run / "config.yaml").read_text())


def state(storage: Path) -> dict[Path, int]:
    """When the files were written that hold what was trained, sampled, executed and labelled."""
    patterns = ("*.safetensors", "*.jsonl", "*.parquet")
    return {path: path.stat().st_mtime_ns for pattern in patterns for path in storage.rglob(pattern)}


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a study leaves."""
    storage = tmp_path_factory.mktemp("storage")
    write_micro(storage / "datasets", MicroConfig(n_train=30, n_validation=10, n_test=4, n_test_pairs=2))
    result = study(storage, STUDY)
    assert result.exit_code == 0, result.output
    return storage


def test_a_stage_runs_once_or_once_a_seed_and_others_start_from_their_own_seeds(storage: Path) -> None:
    runs = storage / "runs" / "s"
    per_seed = ("policy", "own", "critic", "on-own", "weighted", "shuffled", "critic-as-policy")
    expected = {"reference", *(f"{name}-seed-{seed}" for name in per_seed for seed in (3, 5))}
    assert {path.name for path in runs.iterdir() if path.is_dir()} == expected
    assert options(runs / "reference")["run"]["seed"] == 3
    for seed in (3, 5):
        arm, critic = options(runs / f"weighted-seed-{seed}"), options(runs / f"critic-seed-{seed}")
        assert (arm["run"]["seed"], critic["run"]["seed"]) == (seed, seed)
        assert arm["model"]["source"] == str(runs / f"policy-seed-{seed}")
        assert arm["critic"] == str(runs / f"critic-seed-{seed}")
        assert critic["value"]["source"] == str(runs / "reference")
        assert critic["data"]["dataset"] == f"s-own-seed-{seed}"
        assert options(runs / f"on-own-seed-{seed}")["data"]["dataset"] == f"s-own-seed-{seed}"


def test_the_policys_programs_for_training_problems_are_executed_and_learned_from(storage: Path) -> None:
    drawn = {}
    for seed in (3, 5):
        own = storage / "datasets" / f"s-own-seed-{seed}"
        for split in ("train", "validation"):
            place = storage / "runs" / "s" / f"own-seed-{seed}" / split
            results = [json.loads(line) for line in (place / "results.jsonl").read_text().splitlines()]
            assert len(results) == 18
            assert {"completion", "passed"} <= results[0].keys()
            config = json.loads((place / "report.json").read_text())["config"]
            assert config["checkpoint"] == str(storage / "runs" / "s" / f"policy-seed-{seed}")
            assert (config["split"], config["sampling"]["seed"], config["sampling"]["temperature"]) == (split, seed, 1)
            problems = read_problems(storage / "datasets" / "micro" / split)[:6]
            assert read_problems(own / split) == problems
            known = [s for s in read_solutions(storage / "datasets" / "micro" / split) if s.problem_id in
                     {p.problem_id for p in problems}]  # fmt: skip
            finished = [r["completion"] for r in results if r["finished"] != "length"]
            found = read_solutions(own / split)
            assert [s for s in found if s.origin != "model"] == known
            assert {s.code for s in found if s.origin == "model"} == set(finished)
            drawn[seed, split] = [r["completion"] for r in results]
    assert len({tuple(completions) for completions in drawn.values()}) == 4


def test_the_same_command_again_runs_nothing_and_says_the_same(storage: Path) -> None:
    before = state(storage)
    result = study(storage, STUDY)
    assert result.exit_code == 0, result.output
    assert state(storage) == before
    for fact in ("critic-seed-3", "critic-seed-5", "on-own", "weighted", "s-own-seed-5: up to date"):
        assert fact in result.stdout
    assert "s: 15 steps over 2 seeds, 1 at a time; those that are finished are not repeated" in result.stderr


def test_an_evaluation_that_knows_less_options_is_finished_and_a_damaged_one_is_not(storage: Path) -> None:
    folder = storage / "runs" / "s" / "weighted-seed-5" / "evaluation-micro"
    text = (folder / "report.json").read_text()
    config = EvaluationConfig.model_validate(json.loads(text)["config"])
    try:
        older = json.loads(text)
        del older["config"]["runtime"]["compile"]
        (folder / "report.json").write_text(json.dumps(older))
        assert holds_evaluation(config)
        assert not holds_evaluation(config.model_copy(update={"first": 3}))
        for damaged in ("", "{}", '{"config": {"bench": "micro"}}'):
            (folder / "report.json").write_text(damaged)
            assert not holds_evaluation(config)
    finally:
        (folder / "report.json").write_text(text)


def test_arms_are_evaluated_and_compared_at_each_temperature(storage: Path) -> None:
    arm = storage / "runs" / "s" / "weighted-seed-5"
    temperatures = {
        folder.name: json.loads((folder / "report.json").read_text())["config"]["sampling"]["temperature"]
        for folder in arm.glob("evaluation-*")
    }
    assert temperatures == {"evaluation-micro": 0.0, "evaluation-micro-t0.5": 0.5}
    comparison = (storage / "runs" / "s" / "comparison.md").read_text()
    titles = [line for line in comparison.splitlines() if line.startswith("## ")]
    baseline, *others = STUDY["arms"]
    assert titles == [
        *(f"## Does {arm} gain over {baseline}?" for arm in others),
        "## Does weighted gain over shuffled?",
        "## Sampled at temperature 0",
        "## Sampled at temperature 0.5",
        "## Each arm at its best temperature",
    ]
    assert comparison.count("pass@1 on 4 problems") == 3
    assert comparison.count("| weighted | shuffled |") == 3
    data = json.loads((storage / "runs" / "s" / "comparison.json").read_text())
    assert [[arm["name"] for arm in own["arms"]] for own in data.values()] == [[*STUDY["arms"]]] * 3
    assert (storage / "runs" / "s" / "comparison.png").stat().st_size > 5000
    assert "Each arm at its best temperature" in (storage / "runs" / "s" / "page.html").read_text()


def test_a_policy_of_a_stage_is_evaluated_as_it_is(storage: Path) -> None:
    for seed in (3, 5):
        arm = storage / "runs" / "s" / f"critic-as-policy-seed-{seed}"
        assert {path.name for path in arm.iterdir()} == {"evaluation-micro", "evaluation-micro-t0.5", "step.json"}
        config = json.loads((arm / "evaluation-micro" / "report.json").read_text())["config"]
        assert config["checkpoint"] == str(storage / "runs" / "s" / f"critic-seed-{seed}")
    first = StudyConfig.model_validate(STUDY | {"storage": storage})
    step = next(step for step in steps_of(first, FILE) if step.name == "critic-as-policy")
    assert (step.after, step.is_finished()) == ({"critic-seed-3"}, True)


def test_what_nothing_runs_beside_is_told_by_the_stages_alone() -> None:
    config = StudyConfig.model_validate(STUDY)
    assert bottlenecks(steps_of(config, FILE)) == set(), "policies do not wait for the reference"
    stages = {**STUDY["stages"], "policy": training("baseline", "model.source=${reference}", per_seed=True)}
    waiting = StudyConfig.model_validate({**STUDY, "stages": stages})
    assert bottlenecks(steps_of(waiting, FILE)) == {"reference"}
    of_one_seed = StudyConfig.model_validate({**STUDY, "stages": stages, "seeds": [3]})
    assert bottlenecks(steps_of(of_one_seed, FILE)) == {"reference", "policy-seed-3", "own-seed-3"}


def test_the_time_of_a_step_is_told_for_each_arm_and_to_the_first(tmp_path: Path) -> None:
    runs = {}
    for name, seconds in (("uniform", [[9, 2, 2], [2, 2, 2]]), ("weighted", [[3, 3], [3, 90]])):
        runs[name] = [tmp_path / f"{name}-{seed}" for seed in range(2)]
        for run, of in zip(runs[name], seconds, strict=True):
            records = [{"step": 0, "split": "validation"}]
            records += [{"step": i, "split": "train", "seconds": s} for i, s in enumerate(of, start=1)]
            run.mkdir()
            (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    seconds = {"uniform": [60.0, 120.0], "weighted": [180.0, 360.0], "as it is": [45.0, 45.0]}
    columns = time_table(StudyResult({}, runs, {}, seconds)).columns
    assert [list(column.cells) for column in columns] == [
        ["uniform", "weighted", "as it is"],
        ["3", "2", "–"],
        ["2", "3", "–"],
        ["1.00", "1.50", "–"],
        ["1.5", "4.5", "0.8"],
        ["1.00", "3.00", "0.50"],
    ]


def test_what_an_arm_took_is_its_steps_and_those_of_all_it_starts_from(storage: Path) -> None:
    config = StudyConfig.model_validate(STUDY | {"storage": storage})
    steps = {step.place: step for step in steps_of(config, FILE)}
    result = run_study(config, FILE)
    assert result is not None
    needed = ("reference", "policy-seed-5", "own-seed-5", "critic-seed-5", "weighted-seed-5")
    assert all(steps[place].seconds > 0 for place in needed)
    assert result.seconds["weighted"][1] == pytest.approx(sum(steps[place].seconds for place in needed))
    alone = ("policy-seed-3", "own-seed-3", "on-own-seed-3")
    assert result.seconds["on-own"][0] == pytest.approx(sum(steps[place].seconds for place in alone))


def test_what_was_made_from_a_stage_that_is_made_anew_is_not_taken_for_finished(storage: Path, tmp_path: Path) -> None:
    def deleted(*places: str) -> None:
        for place in places:
            shutil.rmtree(tmp_path / "runs" / "s" / place)

    shutil.copytree(storage / "datasets", tmp_path / "datasets")
    stages = {name: stage for name, stage in STUDY["stages"].items() if name in ("reference", "policy")}
    arm = training("baseline", "model.source=${policy}", "data.validation=null")
    config = {**STUDY, "seeds": [3], "stages": stages, "arms": {"arm": arm}}
    assert study(tmp_path, config).exit_code == 0
    deleted("policy-seed-3")
    line = error_of(study(tmp_path, config))
    assert "arm-seed-3: it was made from another policy-seed-3 than is there now" in line
    deleted("arm-seed-3")
    result = study(tmp_path, config)
    assert result.exit_code == 0, result.output
    assert "no learning curves: an arm has no validation split" in result.stdout


def test_what_runs_once_has_what_the_first_seed_made(tmp_path: Path) -> None:
    config = StudyConfig.model_validate(changed("own", per_seed=False) | {"storage": tmp_path})
    own = next(step for step in steps_of(config, FILE) if step.name == "own")
    assert (own.place, own.after) == ("own", {"policy-seed-3"})


def changed(stage: str, **options: Any) -> dict[str, Any]:
    return {**STUDY, "stages": {**STUDY["stages"], stage: {**STUDY["stages"][stage], **options}}}


def with_policy(*override: str) -> dict[str, Any]:
    return changed("policy", override=nested(*override))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            changed("own", checkpoint="${polcy}"),
            "study.yaml: stages.own.checkpoint: ${polcy} is no stage before it; there are: datasets, reference, policy",
        ),
        (
            with_policy("model.source=${own}"),
            "study.yaml: stages.policy.override.model.source: ${own} is no stage before it; there are: datasets, refer",
        ),
        (
            {**STUDY, "override": {"data": {"dataset": ["micro", "${nobodys}"]}}},
            "study.yaml: override.data.dataset: ${nobodys} is no stage before it",
        ),
        (
            changed("policy", override={"model": {"source": "${policy"}}),
            "study.yaml: `stages.policy.override.model.source`: ",
        ),
        (
            with_policy("optim.lrr=1"),
            "with the study's options: unknown option `optim.lrr`; the nearest known",
        ),
        (
            with_policy("optim.lr=fast"),
            "baseline_local.yaml with the study's options: `optim.lr`: Input should be a valid",
        ),
        (with_policy("optim=[1]"), "study.yaml: policy-seed-3: "),
        (changed("policy", override=["optim.lr=1"]), "study.yaml: `stages.policy.baseline.override`: Input should be"),
        (changed("own", pipeline="critic"), "stages.own.critic.checkpoint"),
        (changed("own", temperature=0.0), "stages.own.own_programs.temperature"),
        ({**STUDY, "arms": {"own": STUDY["arms"]["weighted"]}}, "own is the name of a stage and of an arm"),
        ({**STUDY, "stages": {"datasets": POLICY}}, "stages.datasets: that name is taken"),
        ({**STUDY, "seeds": [3, 3]}, "seeds=(3, 3): one of them is there twice"),
        ({**STUDY, "seeds": [-1]}, "seeds.0"),
        (
            {**STUDY, "arms": {**STUDY["arms"], "weighted": {**STUDY["arms"]["weighted"], "against": "shufled"}}},
            "arms.weighted.against=shufled is no other arm: give one of ['on-own', 'weighted', 'shuffled', 'crit",
        ),
        ({**STUDY, "further_temperatures": [0.5, 0]}, "further_temperatures: one of them is there twice, or is the sa"),
        ({**STUDY, "packages": ["nowhere"]}, "packages: nothing called nowhere can be imported here"),
        ({**STUDY, "k": [1, 5]}, "k=(1, 5) needs sampling.n_samples=5 or more, and it is 1"),
        (
            {**STUDY, "arms": {"as-is": {"pipeline": "evaluation", "checkpoint": "${critc}"}}},
            "arms.as-is.checkpoint: ${critc} is no stage before it",
        ),
    ],
)
def test_a_study_that_cannot_run_is_one_line_before_anything_runs(
    tmp_path: Path, config: dict[str, Any], expected: str
) -> None:
    assert expected in error_of(study(tmp_path, config))
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


def test_greedy_beside_samples_is_one_program_a_problem() -> None:
    sampled = {"temperature": 0.5, "n_samples": 4, "top_p": 0.9}
    config = StudyConfig.model_validate({**STUDY, "sampling": sampled, "further_temperatures": [0, 1], "k": [1, 4]})
    drawn = {t: (how.temperature, how.n_samples, how.top_p) for t, how in config.samplings.items()}
    assert drawn == {0.5: (0.5, 4, 0.9), 0: (0, 1, 1.0), 1: (1, 4, 0.9)}
    found = {problem: (4, problem) for problem in range(4)}
    evaluations: Any = {t: {arm: [found, found] for arm in config.arms} for t in config.samplings}
    titles = [*compared(config, StudyResult({}, {}, evaluations, {}))]
    assert [title for title in titles if title.endswith("pass@4")] == [
        "sampled at temperature 0.5, pass@4",
        "sampled at temperature 1, pass@4",
        "each arm at its best temperature, pass@4",
    ]
    assert "sampled at temperature 0, pass@1" in titles


def test_an_error_names_its_stage_or_arm(storage: Path) -> None:
    config = {**changed("own", benchmark="humaneval", per_seed=True), "name": "other", "seeds": [3]}
    config["stages"]["policy"] = {**POLICY, "override": {"model": {"source": f"{storage}/runs/s/policy-seed-3"}}}
    line = error_of(study(storage, config))
    assert line.startswith(f"error: {storage / 'study.yaml'}: own-seed-3: ")
    assert "wmtp data --datasets humaneval" in line
