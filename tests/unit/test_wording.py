"""Words that messages share."""

from pathlib import Path

import pytest

from weighted_mtp.wording import counted, near_names, near_paths, nearest


def test_a_number_agrees_with_its_noun() -> None:
    assert [counted(n, "problem") for n in (0, 1, 1000)] == ["0 problems", "1 problem", "1,000 problems"]


def test_near_names_end_a_message() -> None:
    assert near_names("evalute", ["evaluate", "study"]) == "; near it: evaluate"
    assert near_names("mine/pairs", ["llm_pairs", "study"]) == "; near it: llm_pairs"
    assert near_names("zzz", ["evaluate"]) == ""


def test_the_nearest_name_is_like_it_as_far_as_it_must_be() -> None:
    assert nearest("max_stepz", ["lr", "max_steps"], 0.75) == "max_steps"
    assert nearest("zzz", ["lr", "max_steps"]) in ("lr", "max_steps")
    assert nearest("zzz", ["lr", "max_steps"], 0.75) == nearest("zzz", []) == ""


@pytest.mark.parametrize(
    ("missing", "near"),
    [
        ("storage/runs/mine/polic", "storage/runs/mine/policy"),
        ("storage/run/mine/policy", "storage/runs/mine/policy"),
        ("storage/run/mine/polic", ""),
        ("storage/runs/mine/zzz", ""),
        ("storage/runs/mine/policy", ""),
    ],
)
def test_near_paths_are_there_and_differ_in_the_first_missing_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, near: str
) -> None:
    (tmp_path / "storage" / "runs" / "mine" / "policy").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert near_paths(Path(missing)) == (f"; near it: {near}" if near else "")
