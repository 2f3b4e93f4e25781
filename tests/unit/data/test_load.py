"""The `data:` section: which solutions of a prepared dataset become tokens."""

from pathlib import Path

import pytest
from splits import write_split
from transformers import PreTrainedTokenizerFast

from weighted_mtp.data.index import write_index
from weighted_mtp.data.load import DataConfig, load_stores
from weighted_mtp.data.pairs import PairDataConfig, load_pairs
from weighted_mtp.data.sampling import SampleConfig
from weighted_mtp.data.schema import Records
from weighted_mtp.data.tokens import FOLDER
from weighted_mtp.errors import UserError
from weighted_mtp.section import validated


@pytest.fixture
def root(tmp_path: Path, small_micro: dict[str, Records]) -> Path:
    """A folder of datasets with a small micro benchmark, without indexes."""
    for split in ("train", "validation"):
        write_split(tmp_path / "micro" / split, *small_micro[split])
    return tmp_path


def config(root: Path, sampling: SampleConfig | None) -> DataConfig:
    return DataConfig(root=root, template="plain", max_length=2048, max_tokens=4096, sampling=sampling)


def test_all_correct_solutions_are_read_where_nothing_is_sampled(
    root: Path, small_micro: dict[str, Records], micro_tokenizer: PreTrainedTokenizerFast
) -> None:
    train, validation = load_stores(config(root, None), micro_tokenizer, seed=0)
    assert validation is not None
    for store, split in ((train, "train"), (validation, "validation")):
        assert list(store.sample_ids) == [s.solution_id for s in small_micro[split][1] if s.is_correct]


def test_sampling_chooses_among_the_training_split_alone_by_the_seed(
    root: Path, small_micro: dict[str, Records], micro_tokenizer: PreTrainedTokenizerFast
) -> None:
    write_index(root / "micro" / "train")
    sampling = SampleConfig(n_samples=30, max_per_problem=1)
    train, validation = load_stores(config(root, sampling), micro_tokenizer, seed=0)
    correct = {s.solution_id: s.problem_id for s in small_micro["train"][1] if s.is_correct}
    assert len({correct[name] for name in train.sample_ids}) == len(train) == 30
    assert validation is not None
    assert len(validation) == sum(s.is_correct for s in small_micro["validation"][1])
    again, _ = load_stores(config(root, sampling), micro_tokenizer, seed=0)
    other, _ = load_stores(config(root, sampling), micro_tokenizer, seed=1)
    assert list(train.sample_ids) == list(again.sample_ids) != list(other.sample_ids)


def test_tokens_lie_where_the_configuration_says(root: Path, micro_tokenizer: PreTrainedTokenizerFast) -> None:
    elsewhere = config(root, None).model_copy(update={"tokens": root / "elsewhere"})
    load_stores(elsewhere, micro_tokenizer, seed=0)
    assert sorted(path.name for path in (root / "elsewhere" / "micro").iterdir()) == ["train", "validation"]
    assert not (root / FOLDER).exists()


def test_sampling_without_an_index_names_the_command_that_makes_it(
    root: Path, micro_tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(UserError, match=r"wmtp data --datasets micro --steps metadata"):
        load_stores(config(root, SampleConfig()), micro_tokenizer, seed=0)


def test_several_datasets_are_learned_from_together_each_sampled_by_itself(
    root: Path, small_micro: dict[str, Records], micro_tokenizer: PreTrainedTokenizerFast
) -> None:
    problems, solutions = small_micro["train"]
    for split, kept in (("train", problems[:5]), ("validation", problems[5:8])):
        ids = {problem.problem_id for problem in kept}
        write_split(root / "other" / split, kept, [s for s in solutions if s.problem_id in ids])
    write_index(root / "micro" / "train")
    write_index(root / "other" / "train")
    both = config(root, SampleConfig(max_per_problem=1)).model_copy(update={"dataset": ("other", "micro")})
    train, validation = load_stores(both, micro_tokenizer, seed=0)
    assert len(train) == 5 + len(problems)
    assert validation is not None
    assert len(validation) > sum(s.is_correct for s in small_micro["validation"][1])


def test_where_nothing_is_to_be_sampled_the_split_is_named(
    root: Path, small_micro: dict[str, Records], micro_tokenizer: PreTrainedTokenizerFast
) -> None:
    problems, solutions = small_micro["train"]
    right = [solution for solution in solutions if solution.is_correct]
    write_split(root / "right" / "train", problems, right)
    write_split(root / "wrong" / "train", problems, [s for s in solutions if s not in right])
    for name in ("right", "wrong"):
        write_index(root / name / "train")
    pairs = PairDataConfig(root=root, dataset="right", validation=None)
    with pytest.raises(UserError, match=r"right/train: no pair to sample"):
        load_pairs(pairs, micro_tokenizer, seed=0)
    programs = config(root, SampleConfig()).model_copy(update={"dataset": "wrong", "validation": None})
    with pytest.raises(UserError, match=r"wrong/train: "):
        load_stores(programs, micro_tokenizer, seed=0)


@pytest.mark.parametrize("datasets", [(), ("micro", "micro")])
def test_no_dataset_or_one_twice_is_refused(datasets: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"dataset=\[.*\]: give at least one, and each once"):
        validated(DataConfig, {"dataset": datasets})


def test_pairs_of_several_datasets_keep_their_programs_together(
    root: Path, small_micro: dict[str, Records], micro_tokenizer: PreTrainedTokenizerFast
) -> None:
    for dataset, origin in (("micro", None), ("other", "validation")):
        for split in ("train", "validation"):
            write_split(root / dataset / split, *small_micro[origin or split])
            write_index(root / dataset / split)
    home = {s.solution_id: (s.problem_id, s.is_correct) for of in small_micro.values() for s in of[1]}
    both = PairDataConfig(root=root, dataset=("micro", "other"), template="plain", max_length=2048)
    train, _ = load_pairs(both, micro_tokenizer, seed=0)
    alone, _ = load_pairs(both.model_copy(update={"dataset": "micro"}), micro_tokenizer, seed=0)
    assert len(train.pairs) > len(alone.pairs)
    assert sorted(train.pairs.ravel()) == list(range(len(train.store)))
    for good, bad in train.pairs:
        problem = home[train.store.sample_ids[good]][0]
        assert home[train.store.sample_ids[good]] == (problem, True)
        assert home[train.store.sample_ids[bad]] == (problem, False)
