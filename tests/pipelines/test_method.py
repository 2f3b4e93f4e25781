"""The method through its commands, on a tiny micro benchmark: reference → critic → weighted policy; its promises."""

from pathlib import Path

import pytest
import torch
from method_storage import (
    OBJECTIVES,
    WHOLE_EPOCH,
    Storage,
    error_of,
    new_storage,
    objective_state,
    records,
    stopped_after_three,
    weights,
)

from weighted_mtp.config import load_config
from weighted_mtp.data.batches import blank_batch
from weighted_mtp.errors import UserError
from weighted_mtp.files import describe_files
from weighted_mtp.models.convert import load_base
from weighted_mtp.pipelines.critic import critic_of_run, load_critics
from weighted_mtp.pipelines.run_baseline import BaselineConfig
from weighted_mtp.runtime.config import RuntimeConfig


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    storage = new_storage(tmp_path_factory.mktemp("storage"))
    storage.train("baseline", "policy", "model.source=micro")
    return storage


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """The same with another tokenizer."""
    return new_storage(tmp_path_factory.mktemp("foreign"), vocab_size=320)


ADAPTERS_ALONE = ["training.save_lora_only=true", "training.best_metric=loss"]


def test_runs_that_keep_adapters_alone_serve_like_any_other(storage: Storage) -> None:
    critic = ["value.backbone=lora", f"value.source={storage.run('reference')}", *ADAPTERS_ALONE]
    for objective in ("outcome", "implicit"):
        storage.train("critic", f"small-{objective}", f"critic.objective={objective}", *critic)
    policy = storage.train("baseline", "small", *storage.from_policy(), "model.lora.r=4", *ADAPTERS_ALONE)
    for objective in ("outcome", "implicit"):
        storage.train(
            "verifiable", f"on-{objective}", f"model.source={policy}", f"critic={storage.run(f'small-{objective}')}"
        )
    whole = load_base(str(storage.train("baseline", "large", *storage.from_policy(), "model.lora.r=4")))[0]
    small = load_base(str(policy / "checkpoints" / "best"))[0]
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(small.state_dict()[name], value, msg=name)


def test_heads_that_learn_alone_leave_the_model_as_it_was(storage: Storage) -> None:
    options = ["model.heads_only=true", "loss.detach_extra_heads=false"]
    after = load_base(str(storage.train("baseline", "heads-only", *storage.from_policy(), *options)))[0]
    before = load_base(str(storage.run("policy")))[0]
    names = {id(p): name for name, p in before.named_parameters()}
    moved = {names[id(p)] for p in before.parameters() if not torch.equal(p, after.state_dict()[names[id(p)]])}
    assert moved == {names[id(p)] for p in before.head_parameters()}
    first, *_, last = records(storage.run("heads-only"), "validation")
    assert last["ce/head2"] < first["ce/head2"]
    assert last["ce/head1"] == first["ce/head1"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ([], "training.save_lora_only needs adapters: set model.lora"),
        (["model.lora.r=4", "model.source=micro"], "training.save_lora_only: adapters on model.source=micro"),
    ],
)
def test_keeping_adapters_alone_without_any_is_one_line(storage: Storage, option: list[str], message: str) -> None:
    result = storage.command("baseline", "none", *storage.from_policy(), *ADAPTERS_ALONE, *option)
    assert message in error_of(result)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_critic_is_trained_from_the_reference_and_weights_a_policy(storage: Storage, objective: str) -> None:
    reference = f"value.source={storage.run('reference')}"
    critic = storage.train("critic", f"critic-{objective}", f"critic.objective={objective}", reference)
    validation = records(critic, "validation")[-1]
    assert 0 <= validation["pair_accuracy"] <= 1
    assert 0 <= validation["localisation_auc"] <= 1
    predicts = objective in ("outcome", "lambda_return")
    assert ("calibration_error" in validation) is ("brier" in validation) is predicts
    shares = [validation[f"calibration/bin{k}/share"] for k in range(1, 11)]
    assert sum(shares) == pytest.approx(1)
    assert predicts or not any(shares[:5]), "that of the two which is ranked above is at least as likely the right one"
    run = storage.verifiable(f"weighted-by-{objective}", critic=critic.name)
    assert all(r["weight/std"] > 0 for r in records(run))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_policys_records_say_what_its_weights_do(storage: Storage, split: str) -> None:
    last = records(storage.verifiable("verifiable"), split)[-1]
    per_head = {f"{name}/head{k}" for name in ("ce", "weighted_ce", "weight") for k in range(1, 5)}
    of_weights = {"mean", "std", "clipped_share", "effective_share", "semantic_share", "semantic_token_share"}
    assert per_head | {f"weight/{name}" for name in of_weights} <= last.keys()
    assert 0 < last["weight/semantic_token_share"] < 1
    drafts = {f"acceptance/head{k}" for k in (2, 3, 4)}
    assert drafts & last.keys() == (drafts if split == "validation" else set())


def test_rho1_keeps_its_share_of_every_heads_targets(storage: Storage) -> None:
    for record in records(storage.rho1("rho1", "rho1.k_percent=60"), "train"):
        tokens = record["response_tokens"]
        kept = pytest.approx(round(0.6 * tokens) / tokens)
        assert [record[f"weight/head{k}"] for k in range(1, 5)] == [kept] * 4
        assert record["weight/effective_share"] == kept


def test_uniform_weights_are_the_baseline_to_the_last_bit(storage: Storage) -> None:
    baseline = storage.train("baseline", "uniform", *storage.from_policy())
    for run in (
        storage.verifiable("no-strength", "weighting.strength=0"),
        storage.rho1("all-tokens", "rho1.k_percent=100"),
    ):
        assert records(run) == records(baseline)
        assert weights(run) == weights(baseline)


@pytest.mark.parametrize("pipeline", ["verifiable", "critic"])
def test_a_stopped_and_resumed_run_equals_the_uninterrupted_one_to_the_last_bit(
    storage: Storage, pipeline: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lambda_schedule = "critic={objective: lambda_return, lam_start: 1.0, lam_steps: 3}"
    options = {
        "verifiable": [*storage.from_critic("outcome"), "control=shuffled", "weighting.warmup_steps=1"],
        "critic": [f"value.source={storage.run('reference')}", lambda_schedule],
    }[pipeline]
    whole = storage.train(pipeline, f"{pipeline}-whole", *options)
    stopped_after_three(storage, monkeypatch, pipeline, f"{pipeline}-parts", *options)
    parts = storage.train(pipeline, f"{pipeline}-parts", *options)
    assert records(parts) == records(whole)
    assert weights(parts) == weights(whole)
    assert objective_state(parts) == objective_state(whole)


def test_checkpoints_are_on_the_other_file_system_when_a_run_ends(storage: Storage) -> None:
    there = storage.folder / "there"
    options = [f"training.upload_to=file://{there}", "training.save_every=2"]
    run = storage.train("baseline", "copied", *storage.from_policy(), *options)
    for step in ("step-00000002", "step-00000004"):
        copied, own = (folder / "checkpoints" / step for folder in (there / "copied", run))
        assert describe_files(copied) == describe_files(own)
        assert "model/model.safetensors" in describe_files(copied)
    copied, own = (load_config(BaselineConfig, folder / "config.yaml") for folder in (there / "copied", run))
    assert copied == own


def test_validation_leaves_the_moments_alone(storage: Storage) -> None:
    often = storage.verifiable("often", "training.validate_every=1")
    never = storage.verifiable("never", "data.validation=null")
    assert not records(never, "validation")
    assert objective_state(often) == objective_state(never)
    assert objective_state(often)["steps"] == 4
    assert records(often, "train") == records(never, "train")


@pytest.mark.parametrize("pipeline", ["verifiable", "rho1"])
def test_splitting_into_microbatches_changes_nothing_but_rounding(storage: Storage, pipeline: str) -> None:
    train = storage.verifiable if pipeline == "verifiable" else storage.rho1
    few = train(f"{pipeline}-few", WHOLE_EPOCH, "data.max_tokens=16384")
    many = train(f"{pipeline}-many", WHOLE_EPOCH, "data.max_tokens=512")
    for one, other in zip(records(few, "train"), records(many, "train"), strict=True):
        assert one == {
            name: value if name == "split" else pytest.approx(value, rel=1e-4) for name, value in other.items()
        }


def test_shuffled_weights_are_the_same_on_other_tokens(storage: Storage) -> None:
    itself, shuffled = (
        records(storage.verifiable(f"control-{control}", f"control={control}"))[0] for control in ("none", "shuffled")
    )
    for name in ("mean", "std", "clipped_share", "effective_share"):
        assert shuffled[f"weight/{name}"] == pytest.approx(itself[f"weight/{name}"], rel=1e-6)
    assert shuffled["weight/semantic_share"] != pytest.approx(itself["weight/semantic_share"], rel=1e-3)


def test_a_critic_or_reference_with_another_vocabulary_is_one_line(storage: Storage, foreign: Storage) -> None:
    critic, reference = foreign.run("outcome"), foreign.run("reference")
    result = storage.command("verifiable", "x", *storage.from_policy(), f"critic={critic}")
    assert f"critic={critic}: has another vocabulary than the policy" in error_of(result)
    result = storage.command("rho1", "x", *storage.from_policy(), f"reference={reference}")
    assert f"reference={reference}: has another vocabulary than the policy" in error_of(result)
    assert not storage.run("x").exists()


@pytest.mark.parametrize(
    ("run", "reason"),
    [("nowhere", "not the folder of a critic's run"), ("policy", "the run of a baseline pipeline, not of a critic")],
)
def test_a_critic_that_is_no_critics_run_is_one_line(storage: Storage, run: str, reason: str) -> None:
    result = storage.command("verifiable", "x", *storage.from_critic(run))
    assert f"critic {storage.run(run)}: {reason}" in error_of(result)


def test_a_configuration_of_another_pipeline_is_refused_with_the_command_it_is_for(storage: Storage) -> None:
    result = storage.command("baseline", "x", "pipeline=critic")
    assert "pipeline=critic, but this is baseline: run `wmtp train critic`" in error_of(result)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("value.head=linear", "value.head has no effect with critic.objective=implicit"),
        ("value.head_lr=0.1", "value.head_lr has no effect with critic.objective=implicit"),
        ("value.backbone=frozen", "leaves critic.objective=implicit nothing to train"),
    ],
)
def test_an_implicit_critic_with_an_option_it_cannot_use_is_one_line(
    storage: Storage, option: str, expected: str
) -> None:
    assert expected in error_of(storage.command("critic", "x", "critic.objective=implicit", option))


REWARDED = ("weighting.space=probability", "weighting.terminal_reward=1")


@pytest.mark.parametrize(
    ("pipeline", "options", "expected"),
    [
        ("rho1", ["loss.alignment=source"], "Rho-1 selects tokens as the ones predicted; set it to target"),
        ("verifiable", ["weighting.head_strengths=[1,0]"], "has 2 entries, but the policy has 4 heads: give 4"),
        ("verifiable", ["data.template=alpaca"], "was trained with plain: use one template for both"),
        ("verifiable", ["weighting.terminal_reward=1"], "set weighting.space=probability"),
        ("verifiable", [*REWARDED, "data.too_long=truncate"], "so that all are whole correct programs"),
        ("verifiable", [*REWARDED, "data.sampling={labels: all}"], "so that all are whole correct programs"),
    ],
)
def test_what_would_weight_other_tokens_than_it_says_is_one_line(
    storage: Storage, pipeline: str, options: list[str], expected: str
) -> None:
    of = f"reference={storage.run('reference')}" if pipeline == "rho1" else f"critic={storage.run('outcome')}"
    assert expected in error_of(storage.command(pipeline, "x", *storage.from_policy(), of, *options))
    assert not storage.run("x").exists()


def test_an_ensemble_gives_the_mean_of_its_critics(storage: Storage, foreign: Storage) -> None:
    first = storage.run("outcome")
    source = f"value.source={storage.run('reference')}"
    second = storage.train("critic", "second", "critic.objective=outcome", source, "run.seed=7")
    one, other, both = (load_critics(runs, RuntimeConfig()) for runs in ([first], [second], [first, second]))
    batch = blank_batch(2, 0)
    expected = (one.values(batch) + other.values(batch)) / 2
    assert not torch.equal(one.values(batch), other.values(batch))
    torch.testing.assert_close(both.values(batch), expected)
    assert len(both.inputs) == len(one.inputs) + len(other.inputs)
    of_each = [storage.verifiable(f"of-{critic.name}", f"critic={critic}") for critic in (first, second)]
    run = storage.verifiable("ensemble", f"critic=[{first},{second}]")
    assert weights(run) not in [weights(one) for one in of_each]
    regressed = storage.train("critic", "regressed", "critic.objective=lambda_return", source)
    message = error_of(storage.command("verifiable", "x", *storage.from_policy(), f"critic=[{first},{regressed}]"))
    assert "an ensemble is of critics of one kind" in message
    message = error_of(storage.command("verifiable", "x", *storage.from_policy(), f"critic=[{first},{first}]"))
    assert "give at least one, and each once" in message
    with pytest.raises(UserError, match="has another vocabulary"):
        load_critics([first, foreign.run("outcome")], RuntimeConfig())


def test_values_regressed_on_outcomes_are_probabilities(storage: Storage) -> None:
    source = f"value.source={storage.run('reference')}"
    run = storage.train("critic", "regressed", "critic.objective=lambda_return", source)
    assert critic_of_run(run, RuntimeConfig()).output_kind == "probability"
    message = error_of(storage.command("critic", "x", "critic.objective=lambda_return", "value.base_rate=0.9", source))
    assert "set value.head=sigmoid, or leave base_rate out" in message


THEIRS = """
import torch

class Constant:
    def __init__(self, policy, *, weight):
        self.weight = weight

    def initial_state(self):
        return {}

    def __call__(self, batches, state):
        return [torch.full(batch.input_ids.shape, self.weight) for batch in batches], state
"""


@pytest.fixture
def their_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What installing another package leaves: a module, and its entry point."""
    (tmp_path / "their_module.py").write_text(THEIRS)
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[weighted_mtp.token_weightings]\nconstant = their_module:Constant\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("their_package")
def test_another_packages_weighting_trains_a_policy(storage: Storage) -> None:
    chosen = [*storage.from_policy(), "token_weighting=constant"]
    run = storage.train("third-party", "theirs", *chosen, "options.weight=0.5")
    assert [r["weight/mean"] for r in records(run, "train")] == [0.5] * 4
    result = storage.command("third-party", "x", *chosen, "options.wieght=0.5")
    assert "options of constant: " in error_of(result)
    assert "wieght" in error_of(result)
