"""A run is resumed from what it started with, or says what has changed; its prompts keep their date."""

import datetime
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
from method_storage import CONFIGS, Storage, error_of, new_storage, records, stopped_after_three, weights
from typer.testing import CliRunner

from weighted_mtp.cli import app
from weighted_mtp.data.sources.micro.dataset import write_micro
from weighted_mtp.data.sources.micro.generator import MicroConfig
from weighted_mtp.models.build import save_policy
from weighted_mtp.models.checkpoint import newest_model
from weighted_mtp.models.convert import load_base
from weighted_mtp.models.mtp import MTPForCausalLM
from weighted_mtp.study.config import StudyConfig
from weighted_mtp.study.steps import steps_of

CHAT = "{{ 'Today is ' + strftime_now('%d %b %Y') + '. ' + messages[0]['content'] }}"


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    storage = new_storage(tmp_path_factory.mktemp("storage"))
    storage.train("baseline", "policy", "model.source=micro")
    source = f"value.source={storage.run('reference')}"
    storage.train("critic", "implicit", "critic.objective=implicit", source, "value.last_layers=1")
    return storage


def change_weights(folder: Path) -> None:
    """Another model in the place of a policy, as if it had been trained for longer."""
    model, tokenizer = load_base(str(folder))
    model.get_input_embeddings().weight.data += 1e-3
    save_policy(cast(MTPForCausalLM, model), tokenizer, folder)


def change_value_head(folder: Path) -> None:
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # of the last weight's sign and exponent
    file.write_bytes(content)


def change_tokenizer(folder: Path) -> None:
    """Another chat template: prompts would be others, were they asked as a chat."""
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")


def change_problems(folder: Path) -> None:
    write_micro(folder, MicroConfig(n_train=30, n_validation=10, n_test=2, n_test_pairs=2, seed=1))


@dataclass(frozen=True)
class Change:
    """A run, what is changed after its third step, and what the refusal names."""

    pipeline: str
    options: Callable[[Storage, Path], Sequence[str]]
    original: Callable[[Storage], Path]
    change: Callable[[Path], None]
    named: str


CHANGES = {
    "critic": Change(
        "verifiable",
        lambda storage, copy: [*storage.from_policy(), f"critic={copy}"],
        lambda storage: storage.run("outcome"),
        lambda copy: change_value_head(newest_model(copy)),
        "critic",
    ),
    "implicit critic": Change(
        "verifiable",
        lambda storage, copy: [*storage.from_policy(), f"critic={copy}"],
        lambda storage: storage.run("implicit"),
        lambda copy: change_weights(newest_model(copy)),
        "critic",
    ),
    "Rho-1's reference": Change(
        "rho1",
        lambda storage, copy: [*storage.from_policy(), f"reference={copy}"],
        lambda storage: storage.run("reference"),
        lambda copy: change_weights(newest_model(copy)),
        "reference",
    ),
    "what an implicit critic moves away from": Change(
        "critic",
        lambda _, copy: ["critic.objective=implicit", f"value.source={copy}"],
        lambda storage: storage.run("reference"),
        lambda copy: change_weights(newest_model(copy)),
        "reference",
    ),
    "data": Change(
        "baseline",
        lambda storage, copy: [*storage.from_policy(), f"data.root={copy}"],
        lambda storage: storage.folder / "datasets",
        change_problems,
        "data micro/train, data micro/validation, samples",
    ),
    "tokenizer": Change(
        "baseline",
        lambda _, copy: [f"model.source={copy}"],
        lambda storage: newest_model(storage.run("policy")),
        change_tokenizer,
        "tokenizer",
    ),
    "frozen weights": Change(
        "baseline",
        lambda _, copy: [f"model.source={copy}", "model.lora.r=4"],
        lambda storage: newest_model(storage.run("policy")),
        change_weights,
        "frozen weights",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_resume_from_something_else_is_refused_by_name_or_accepted_and_recorded(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    case, copy, name = CHANGES[what], storage.folder / "copies" / what, f"changed-{what.replace(' ', '-')}"
    shutil.copytree(case.original(storage), copy)
    options = case.options(storage, copy)
    stopped_after_three(storage, monkeypatch, case.pipeline, name, *options)
    case.change(copy)
    run = storage.run(name)
    expected = f"{run}: not what it was when the run began: {case.named}; "
    assert error_of(storage.command(case.pipeline, name, *options)).startswith(f"error: {expected}")
    storage.train(case.pipeline, name, *options, "run.accept_changes=true")
    facts = json.loads((run / "run.json").read_text())
    (accepted,) = facts["accepted_changes"]
    assert accepted["step"] == 3
    assert ", ".join(accepted["changes"]) == case.named
    assert all(facts["inputs"][key] == change["after"] for key, change in accepted["changes"].items())


def test_an_implicit_critic_is_not_taken_with_another_reference_than_its_own(storage: Storage) -> None:
    copy = storage.folder / "copies" / "moved reference"
    shutil.copytree(storage.run("reference"), copy)
    critic = storage.train("critic", "on-copy", "critic.objective=implicit", f"value.source={copy}")
    change_weights(newest_model(copy))
    options = [*storage.from_policy(), f"critic={critic}"]
    error = error_of(storage.command("verifiable", "on-moved", *options))
    assert f"its reference, {copy}, has other weights than when it was trained" in error
    storage.train("verifiable", "on-moved", *options, "run.accept_changes=true")


def set_today(monkeypatch: pytest.MonkeyPatch, day: str) -> None:
    class Day(datetime.date):
        @classmethod
        def today(cls) -> datetime.date:  # type: ignore[override]
            return datetime.date.fromisoformat(day)

    monkeypatch.setattr("datetime.date", Day)


@pytest.fixture
def dated(storage: Storage, tmp_path: Path) -> str:
    """The option of a policy whose chat template names the date."""
    folder = tmp_path / "dated"
    shutil.copytree(newest_model(storage.run("policy")), folder)
    (folder / "chat_template.jinja").write_text(CHAT)
    return f"model.source={folder}"


def test_prompts_keep_the_date_on_which_the_run_was_begun(
    storage: Storage, dated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [dated, "data.template=chat"]
    set_today(monkeypatch, "2026-11-29")
    whole = storage.train("baseline", "dated-whole", *options)
    stopped_after_three(storage, monkeypatch, "baseline", "dated-parts", *options)
    set_today(monkeypatch, "2026-12-01")
    parts = storage.train("baseline", "dated-parts", *options)
    assert json.loads((parts / "run.json").read_text())["inputs"]["template date"] == "2026-11-29"
    assert records(parts) == records(whole)
    assert weights(parts) == weights(whole)
    later = storage.train("baseline", "dated-later", *options)
    assert json.loads((later / "run.json").read_text())["inputs"]["template date"] == "2026-12-01"
    assert records(later) != records(whole)
    assert records(storage.train("baseline", "dated-given", *options, "data.date=2026-11-29")) == records(whole)


def test_a_date_that_no_prompt_names_is_refused(storage: Storage) -> None:
    error = error_of(storage.command("baseline", "no-date", *storage.from_policy(), "data.date=2026-11-29"))
    assert "data.date=2026-11-29 has no effect: data.template=plain" in error


def evaluated(storage: Storage, model: str, output: Path, *more: str) -> str:
    """The date that the problems were asked with."""
    data = ["--benchmark", "micro", "--data-root", str(storage.folder / "datasets"), "--max-new-tokens", "2"]
    command = ["evaluate", "--checkpoint", model, "--output", str(output), "--template", "chat", *data, *more]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return json.loads((output / "evaluation.json").read_text())["origin"]["day"]


def test_an_evaluation_asks_with_the_date_of_the_run_or_of_its_own_first_start(
    storage: Storage, dated: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = dated.removeprefix("model.source=")
    set_today(monkeypatch, "2026-11-29")
    run = storage.train("baseline", "dated-run", dated, "data.template=chat")
    assert evaluated(storage, model, tmp_path / "plain") == "2026-11-29"
    set_today(monkeypatch, "2026-12-01")
    assert evaluated(storage, str(run), tmp_path / "run") == "2026-11-29"
    (tmp_path / "plain" / "samples.jsonl").unlink()
    assert evaluated(storage, model, tmp_path / "plain") == "2026-11-29"
    assert evaluated(storage, model, tmp_path / "later") == "2026-12-01"
    assert evaluated(storage, model, tmp_path / "given", "--date", "2026-05-01") == "2026-05-01"
    data = ["--benchmark", "micro", "--data-root", str(storage.folder / "datasets"), "--output", str(tmp_path / "no")]
    result = CliRunner().invoke(
        app,
        ["evaluate", "--checkpoint", model, "--template", "plain", "--date", "2026-05-01", *data],
    )
    assert "--date 2026-05-01 has no effect" in error_of(result)


def test_a_study_hands_the_acceptance_on_to_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "study.yaml"
    arm = {"pipeline": "baseline", "config": str(CONFIGS / "baseline_local.yaml")}
    file.write_text(json.dumps({"name": "s", "storage": str(tmp_path), "arms": {"a": arm}}))
    asked: list[StudyConfig] = []
    monkeypatch.setattr("weighted_mtp.study.run.run_study", lambda config, *_: asked.append(config))
    for more in ([], ["--accept-changes"]):
        CliRunner().invoke(app, ["study", "--config", str(file), *more])
    accepted = [step._training(step.what).run.accept_changes for study in asked for step in steps_of(study, file)]
    assert accepted == [False, True]
