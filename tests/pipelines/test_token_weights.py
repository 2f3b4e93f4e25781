"""`wmtp weights` on tiny critics and runs: the weights shown are those of the run's own moments."""

import html
import warnings
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from typer.testing import CliRunner, Result

from weighted_mtp.cli import app
from weighted_mtp.config import load_config
from weighted_mtp.data.sources.micro.dataset import write_micro
from weighted_mtp.data.sources.micro.generator import MicroConfig
from weighted_mtp.errors import UserError
from weighted_mtp.models.checkpoint import load_tokenizer
from weighted_mtp.pipelines.run_verifiable import VerifiableConfig
from weighted_mtp.pipelines.token_weights import (
    END,
    chosen_programs,
    critic_source,
    run_source,
    shown_programs,
    token_texts,
)
from weighted_mtp.value_weighting.moments import Moments
from weighted_mtp.value_weighting.td import exponential_weights, whitened

ROOT = Path(__file__).resolve().parents[2]
SIZES = ("hidden_size=32", "num_attention_heads=2", "num_hidden_layers=2", "intermediate_size=48")


def wmtp(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small micro benchmark; a policy, a critic, a weighted run and a Rho-1 run on it, of two steps each."""
    folder = tmp_path_factory.mktemp("storage")
    write_micro(folder / "datasets", MicroConfig(n_train=40, n_validation=6, n_test=4, n_test_pairs=4))

    def train(kind: str, config: str, name: str, *more: str) -> None:
        options = [f"run.name={name}", f"run.root={folder}/runs", f"data.root={folder}/datasets", *more]
        options += [
            "tracking=none",
            "training.max_steps=2",
            "optim.warmup_steps=1",
            "training.validation_batches=1",
        ]
        flags = [part for option in options for part in ("--override", option)]
        result = wmtp("train", kind, "--config", ROOT / "configs" / "local" / config, *flags)
        assert result.exit_code == 0, result.output

    policy = f"{folder}/runs/policy"
    tokenizer = f"model.micro_tokenizer={folder}/datasets/micro/tokenizer"
    micro = [f"model.micro.{size}" for size in SIZES]
    train("baseline", "baseline_local.yaml", "policy", "model.source=micro", tokenizer, *micro)
    train("critic", "critic_local.yaml", "critic", f"value.source={policy}", "data.pairs.n_pairs=20")
    train(
        *("verifiable", "verifiable_local.yaml", "weighted", f"model.source={policy}", tokenizer),
        *(f"critic={folder}/runs/critic", "weighting.head_strengths=[1, 1, 0.5, 0]", "loss.confidence=null"),
    )
    train("rho1", "rho1_local.yaml", "rho1", f"model.source={policy}", tokenizer, f"reference={policy}")
    return folder


@pytest.mark.parametrize(("option", "name"), [("--critic", "critic"), ("--run", "weighted"), ("--run", "rho1")])
def test_page_and_picture_are_written(storage: Path, tmp_path: Path, option: str, name: str) -> None:
    page = tmp_path / "weights.html"
    data = ("--data-root", storage / "datasets", "--problems", "2", "--output", page)
    result = wmtp("weights", option, storage / "runs" / name, *data)
    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert text.count("<article>") == 4
    assert "Semantic tokens:" in text
    assert ("weight, head 4" in text) == (name != "critic")
    assert page.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("option", "name"), [("--critic", "critic"), ("--run", "weighted")])
def test_what_is_shown_is_the_runs_own_data(
    storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = wmtp("weights", option, storage / "runs" / name, "--problems", "1")
    assert result.exit_code == 0, result.output
    problems, _ = chosen_programs(storage / "datasets" / "micro" / "validation", 1)
    assert html.escape(problems[0].description.strip()) in (tmp_path / "weights.html").read_text()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["weights.html", "weights.png"]


def test_another_dataset_and_split_are_shown_if_they_are_given(storage: Path, tmp_path: Path) -> None:
    (tmp_path / "other").symlink_to(storage / "datasets" / "micro")
    page = tmp_path / "weights.html"
    place = ("--data-root", tmp_path, "--dataset", "other", "--split", "train", "--problems", "1")
    result = wmtp("weights", "--critic", storage / "runs" / "critic", *place, "--output", page)
    assert result.exit_code == 0, result.output
    problems, _ = chosen_programs(storage / "datasets" / "micro" / "train", 1)
    assert html.escape(problems[0].description.strip()) in page.read_text()


def test_weights_are_those_of_the_moments_that_the_run_ended_with(storage: Path) -> None:
    run = storage / "runs" / "weighted"
    config = load_config(VerifiableConfig, run / "config.yaml")
    source = run_source(run)
    views, shown = shown_programs(source, *chosen_programs(storage / "datasets" / "micro" / "validation", 3))
    assert [view.title for view in views] == [*(f"weight, head {k}" for k in range(1, 5)), "δ"]
    contents = {"objective": Moments.initial().state()}
    with warnings.catch_warnings(action="ignore"):
        dcp_load(contents, checkpoint_id=run / "checkpoints" / "step-00000002" / "state")
    moments = Moments.of(contents["objective"])
    assert moments.steps == 2
    for program in shown:
        values = torch.tensor([token.values for token in program.tokens])
        delta = values[None, :, 4]
        expected = exponential_weights(whitened(delta, moments), config.weighting)[0]
        torch.testing.assert_close(values[:, 0], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(values[:, 2], 1 + 0.5 * (expected - 1), rtol=1e-4, atol=1e-5)
        assert (values[:, 3] == 1).all()
    again = shown_programs(source, *chosen_programs(storage / "datasets" / "micro" / "validation", 1))[1]
    assert again == shown[:2], "what else is shown must not move the moments"


def test_the_texts_of_tokens_join_to_the_program(storage: Path) -> None:
    source = run_source(storage / "runs" / "weighted")
    problems, solutions = chosen_programs(storage / "datasets" / "micro" / "validation", 4)
    assert [s.is_correct for s in solutions] == [True, False] * 4
    assert [s.problem_id for s in solutions[::2]] == [p.problem_id for p in problems]
    for program, solution in zip(shown_programs(source, problems, solutions)[1], solutions, strict=True):
        assert "".join(token.text for token in program.tokens) == solution.code + END
        wrong = [token.text for token in program.tokens if token.wrong]
        assert bool(wrong) == (not solution.is_correct)


def test_a_character_of_several_tokens_belongs_to_the_last(storage: Path) -> None:
    tokenizer = load_tokenizer(storage / "datasets" / "micro" / "tokenizer")
    prompt, response = (tokenizer.encode(text, add_special_tokens=False) for text in ("Give\n", "x = 'é你'"))
    texts = token_texts(tokenizer, prompt, response)
    assert "".join(texts) == "x = 'é你'"
    assert "" in texts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either --critic"),
        (("--critic", "critic", "--run", "weighted"), "give either --critic"),
        (("--run", "policy"), "not a run with token weights"),
        (("--run", "critic"), "not a run with token weights"),
        (("--critic", "weighted"), "not of a critic"),
        (("--critic", "nowhere"), "holds no config.yaml"),
        (("--critic", "broken"), "not valid YAML"),
        (("--critic", "critic", "--output", "w.png"), "--format is html; give a name that ends in .html"),
    ],
)
def test_mistakes_are_one_line(storage: Path, arguments: tuple[str, ...], message: str) -> None:
    broken = storage / "runs" / "broken"
    broken.mkdir(exist_ok=True)
    (broken / "config.yaml").write_text("run: {name: x\n")
    runs = {name: str(storage / "runs" / name) for name in ("critic", "weighted", "policy", "nowhere", "broken")}
    result = wmtp("weights", *(runs.get(a, a) for a in arguments), "--data-root", storage / "datasets")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert message in line


def test_a_critics_weights_need_a_correct_program_for_their_scale(storage: Path) -> None:
    with pytest.raises(UserError, match=r"no correct program of the problems shown is within its data.max_length"):
        critic_source(storage / "runs" / "critic").weights([], [])
