"""Configuration: merging order, and one line for every mistake."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from weighted_mtp.config import load_config, save_config
from weighted_mtp.errors import UserError
from weighted_mtp.section import Section, differences


class Inner(Section):
    rate: float = 0.1
    steps: int = 10


class Draw(Section):
    kind: Literal["draw"]
    samples: int = 1


class Train(Section):
    kind: Literal["train", "tune"]
    simple: int = 1


class Outer(Section):
    name: str = "x"
    inner: Inner = Inner()
    maybe: Inner | None = None
    stages: dict[str, Annotated[Draw | Train, Field(discriminator="kind")]] = {}  # noqa: RUF012  # pydantic copies it


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_overrides_win_over_the_file_and_the_file_over_what_it_extends(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "name: base\ninner: {rate: 0.5, steps: 1}\n")
    child = write(tmp_path / "child.yaml", "extends: base.yaml\ninner: {steps: 2}\n")
    config = load_config(Outer, child, ["inner.steps=3"])
    assert (config.name, config.inner.rate, config.inner.steps) == ("base", 0.5, 3)


@pytest.mark.parametrize("overrides", [[], ["inner.steps=3"]])
def test_an_empty_section_does_not_drop_what_is_extended(tmp_path: Path, overrides: list[str]) -> None:
    write(tmp_path / "base.yaml", "inner: {rate: 0.5}\n")
    child = write(tmp_path / "child.yaml", "extends: base.yaml\ninner:\n")
    with pytest.raises(UserError, match=r"`inner` is empty, which would drop that of base\.yaml"):
        load_config(Outer, child, overrides)


def test_a_saved_configuration_reads_back_equal(tmp_path: Path) -> None:
    config = load_config(Outer, None, ["inner.rate=3e-4", "maybe.steps=7"])
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(Outer, tmp_path / "saved.yaml") == config


def test_differences_name_the_option_and_both_values() -> None:
    assert differences(Outer(), Outer(inner=Inner(steps=11))) == ["inner.steps: 10 → 11"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("inner: {rat: 1}\n", "unknown option `inner.rat`; the nearest known one is `inner.rate`"),
        ("maybe: {stepz: 1}\n", "unknown option `maybe.stepz`; the nearest known one is `maybe.steps`"),
        ("stages: {a: {kind: draw, sample: 1}}\n", "nearest known one is `stages.a.draw.samples`"),
        ("stages: {a: {kind: tune, sample: 1}}\n", "nearest known one is `stages.a.tune.simple`"),
        ("nane: a\n", "the nearest known one is `name`"),
        ("inner: {steps: many}\n", "`inner.steps`: Input should be a valid integer"),
        ("inner: [1\n", "line 2, column 1 is not valid YAML"),
        ("- a\n", "must hold options"),
        ("extends: [a, b]\n", "`extends` must be the path of one YAML file"),
        ("extends: nowhere.yaml\n", "nowhere.yaml: no such configuration file"),
        ("extends: config.yaml\n", "goes in a circle"),
        ("name: ${nowhere}\n", "nowhere"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_that_names_it(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(UserError) as raised:
        load_config(Outer, write(tmp_path / "config.yaml", text))
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("override", ["inner.steps", "=3", "inner.steps=[1"])
def test_a_malformed_override_is_quoted(override: str) -> None:
    with pytest.raises(UserError, match="--override"):
        load_config(Outer, None, [override])


class Optim(Section):
    lr: float = 1.0
    betas: float = 0.9


class Run(Section):
    optim: Optim = Optim()
    inner: Inner = Inner()


@pytest.mark.parametrize(
    ("override", "advice"),
    [
        ("optim.learning_rate=1", "unknown option `optim.learning_rate`; here it is called `optim.lr`"),
        ("learning_rate=1", "unknown option `learning_rate`; here it is called `optim.lr`"),
        ("inner.adam_beta1=1", "here it is called `optim.betas`"),
        ("inner.LEARNING_RATE=1", "here it is called `optim.lr`"),
        ("optim.leraning_rate=1", "here it is called `optim.lr`"),
        ("inner.lr=1", "unknown option `inner.lr`; it is `optim.lr`"),
        ("steps=1", "unknown option `steps`; it is `inner.steps`"),
        ("optim.lrr=1", "the nearest known one is `optim.lr`"),
        ("inner.model_name_or_path=x", "the nearest known one is `inner."),
    ],
)
def test_an_unknown_option_is_met_with_the_one_that_was_meant(override: str, advice: str) -> None:
    with pytest.raises(UserError) as raised:
        load_config(Run, None, [override])
    assert advice in str(raised.value)
