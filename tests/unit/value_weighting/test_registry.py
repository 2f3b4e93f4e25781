"""A third party's weighting, from a distribution that this package knows nothing of."""

import sys
from pathlib import Path

import pytest
import torch
from small_batches import batch_of

from weighted_mtp.errors import UserError
from weighted_mtp.losses.mtp_loss import LossConfig
from weighted_mtp.losses.objective import PolicyObjective
from weighted_mtp.value_weighting.plugins import GROUP, weighting_named

MODULE = """
import torch

class Constant:
    def __init__(self, policy, *, weight):
        self.policy, self.weight = policy, weight

    def initial_state(self):
        return {}

    def __call__(self, batches, state):
        return [torch.full(batch.input_ids.shape, self.weight) for batch in batches], state
"""


def distribution(folder: Path, name: str, entries: str) -> None:
    """What a package installer leaves: metadata beside the module."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{entries}\n")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "their_weightings.py").write_text(MODULE)
    distribution(tmp_path, "theirs", "constant = their_weightings:Constant\nbroken = their_weightings:Missing")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_an_installed_weighting_is_found_and_serves_a_policys_objective(installed: Path) -> None:
    weighting = weighting_named("constant")("the policy", weight=0.5)
    assert weighting.policy == "the policy"
    (item,), _ = PolicyObjective(weighting, LossConfig()).prepare([batch_of()], weighting.initial_state())
    assert torch.equal(item.weights, torch.full((6, 12), 0.5))


def test_an_unknown_name_is_refused_with_the_nearest_known_one(installed: Path) -> None:
    with pytest.raises(UserError, match=r"^weighting konstant: no installed package offers it .* nearest is constant$"):
        weighting_named("konstant")


def test_without_any_installed_weighting_the_message_says_so() -> None:
    with pytest.raises(UserError, match=f"weighting constant: no installed package .* {GROUP}; none is$"):
        weighting_named("constant")


def test_an_entry_that_is_not_to_be_imported_is_refused(installed: Path) -> None:
    with pytest.raises(UserError, match=r"^weighting broken: their_weightings:Missing cannot be imported: .*Missing"):
        weighting_named("broken")


def test_a_name_that_two_packages_offer_is_refused(installed: Path) -> None:
    distribution(installed, "others", "constant = other_weightings:Constant")
    with pytest.raises(UserError, match=r"offered by several installed packages \(others, theirs\); uninstall"):
        weighting_named("constant")


def test_an_import_path_names_a_class_also_of_a_file_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_own_weighting.py").write_text("class Mine:\n    pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert weighting_named("my_own_weighting:Mine").__name__ == "Mine"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nowhere_at_all:Mine", "No module named 'nowhere_at_all'"),
        ("json:Mine", "has no attribute 'Mine'"),
        (":Mine", "must have the form module:Class"),
    ],
)
def test_an_import_path_that_leads_nowhere_is_one_line(name: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        weighting_named(name)
