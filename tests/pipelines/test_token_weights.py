"""`wmtp weights` on tiny critics and runs: the weights shown are those of the run's own moments."""

import html
import re
import shutil
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
    shown_programs,
    token_texts,
    view_of_weights,
)
from weighted_mtp.pipelines.weight_source import critic_source, run_source
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
    assert len(re.findall(r'<span class="t[^"]* f"', text)) == 4, "where each program first differs from its twin"
    assert "Semantic tokens:" in text
    assert ("weight, head 4" in text) == (name != "critic")
    assert page.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("name", "programs"), [("critic", 4), ("weighted", 4), ("rho1", 4), ("policy", 0)])
def test_a_run_that_gives_weights_shows_them_on_its_page(
    storage: Path, tmp_path: Path, name: str, programs: int
) -> None:
    result = wmtp("report", storage / "runs" / name, "--problems", "2", "--output", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "page.html").read_text()
    assert text.count('<pre class="tokens"') == programs
    assert ("script-src 'none'" in text) is (programs == 0)


def test_a_page_says_why_it_shows_no_programs(storage: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(storage / "runs" / "critic", moved)
    config = (moved / "config.yaml").read_text()
    (moved / "config.yaml").write_text(config.replace(f"root: {storage}/datasets", "root: nowhere"))
    result = wmtp("report", moved)
    assert result.exit_code == 0, result.output
    assert "No programs are shown: nowhere/micro/validation" in (moved / "page.html").read_text()


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
    shown = shown_programs(source, storage / "datasets" / "micro" / "validation", 3)
    assert [view.title for view in shown.views] == [*(f"weight, head {k}" for k in range(1, 5)), "δ", "value"]
    contents = {"objective": Moments.initial().state()}
    with warnings.catch_warnings(action="ignore"):
        dcp_load(contents, checkpoint_id=run / "checkpoints" / "step-00000002" / "state")
    moments = Moments.of(contents["objective"])
    assert moments.steps == 2
    for program in shown.programs:
        values = torch.tensor([token.values for token in program.tokens])
        delta = values[None, :, 4]
        expected = exponential_weights(whitened(delta, moments), config.weighting)[0]
        torch.testing.assert_close(values[:, 0], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(values[:, 2], 1 + 0.5 * (expected - 1), rtol=1e-4, atol=1e-5)
        assert (values[:, 3] == 1).all()
        torch.testing.assert_close(values[:, 5], values[:, 4].cumsum(0), rtol=1e-4, atol=1e-5)
    again = shown_programs(source, storage / "datasets" / "micro" / "validation", 1)
    assert again.programs == shown.programs[:2], "what else is shown must not move the moments"


def test_the_texts_of_tokens_join_to_the_program(storage: Path) -> None:
    source = run_source(storage / "runs" / "weighted")
    validation = storage / "datasets" / "micro" / "validation"
    problems, solutions = chosen_programs(validation, 4)
    assert [s.is_correct for s in solutions] == [True, False] * 4
    assert [s.problem_id for s in solutions[::2]] == [p.problem_id for p in problems]
    for program, solution in zip(shown_programs(source, validation, 4).programs, solutions, strict=True):
        assert "".join(token.text for token in program.tokens) == solution.code + END
        wrong = [token.text for token in program.tokens if token.wrong]
        assert bool(wrong) == (not solution.is_correct)


def test_twins_agree_before_the_token_that_is_marked_and_differ_in_it(storage: Path) -> None:
    source = critic_source(storage / "runs" / "critic")
    shown = shown_programs(source, storage / "datasets" / "micro" / "validation", 4).programs
    for correct, incorrect in zip(shown[::2], shown[1::2], strict=True):
        (place,) = [number for number, token in enumerate(correct.tokens) if token.differs]
        texts, others = ([token.text for token in program.tokens] for program in (correct, incorrect))
        assert incorrect.tokens[place].differs
        assert texts[:place] == others[:place]
        assert texts[place] != others[place]
        assert any("First wrong token: " in fact for fact in incorrect.facts)


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


@pytest.mark.parametrize(
    ("weights", "low", "centre", "high"),
    [
        ([0.5, 1.0, 3.0], 0.5, 1.0, 3.0),
        ([1.0, 3.0], 1.0, 1.0, 3.0),
        ([1.0, 1.0], 1.0, 1.0, 1.0),
        ([0.0, 0.25, 0.5], 0.0, 0.25, 0.5),
    ],
)
def test_colours_of_weights_are_around_one_or_around_the_mean_of_those_below_it(
    weights: list[float], low: float, centre: float, high: float
) -> None:
    view = view_of_weights("weight", torch.tensor(weights))
    assert (view.low, view.centre, view.high) == (low, centre, high)
