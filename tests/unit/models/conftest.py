"""A checkpoint in Meta's format, and its tokenizer."""

from pathlib import Path

import pytest
from meta_checkpoints import PARAMS, random_state, train_sentencepiece, write


@pytest.fixture(scope="session")
def tokenizer_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_sentencepiece(tmp_path_factory.mktemp("sentencepiece") / "tokenizer.model")


@pytest.fixture
def source(tmp_path: Path, tokenizer_model: Path) -> Path:
    return write(tmp_path / "meta" / "7B_1T_4", PARAMS, random_state(PARAMS), tokenizer_model)
