"""The `data:` section: which solutions of a prepared dataset become tokens."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from weighted_mtp.data.index import write_index
from weighted_mtp.data.load import DataConfig, load_stores
from weighted_mtp.data.sampling import SampleConfig
from weighted_mtp.data.schema import Records, write_split
from weighted_mtp.data.tokens import FOLDER
from weighted_mtp.errors import UserError


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
