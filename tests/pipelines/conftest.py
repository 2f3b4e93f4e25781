"""A small benchmark and a tiny model that several commands are tried on."""

import copy
from pathlib import Path

import pytest
from tiny_models import byte_tokenizer, tiny_model

from weighted_mtp.data.sources.micro.dataset import write_micro
from weighted_mtp.data.sources.micro.generator import MicroConfig
from weighted_mtp.models.card import ModelOrigin
from weighted_mtp.models.convert import write_model


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "datasets"
    write_micro(folder, MicroConfig(n_train=20, n_validation=10, n_test=12, n_test_pairs=4))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    random = tiny_model()
    random.config = copy.deepcopy(random.config)  # which other tests' models share
    random.config.max_position_embeddings = 4096
    write_model(random, byte_tokenizer(), folder, ModelOrigin("tiny", "A test."))
    return folder
