"""Three small tokenizers of the families that matter, trained in the test run; and a small micro benchmark."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from weighted_mtp.data.schema import Records
from weighted_mtp.data.sources.micro import MicroConfig, generate_micro, train_tokenizer

TEXTS = [
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "### Instruction:\nReturn the sum of the squares of the even numbers.\n\n### Response:\n",
    "def solve(xs):\n    total = 0\n    for x in xs:\n        if x > 0:\n            total += x * x\n    return total",
    "\n\n\n        deep\n\n    less\n\tindented by a tab\n\t\ttwice   three   spaces",
] * 8


def _sentencepiece_llama(directory: Path) -> PreTrainedTokenizerBase:
    """As Llama 2: BPE with byte fallback, BOS, and a dummy '▁' before every text."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=model,
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        character_coverage=1.0,
        minloglevel=2,
    )
    (directory / "tokenizer.model").write_bytes(model.getvalue())
    return LlamaTokenizer.from_pretrained(directory, add_bos_token=True)


def _byte_level_bpe() -> PreTrainedTokenizerBase:
    """As GPT-2, with merged runs of white space, and an EOS that it adds to every text by itself."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    end = backend.token_to_id("<|endoftext|>")
    backend.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", end)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


_FAMILIES: dict[str, Callable[[Path], PreTrainedTokenizerBase]] = {
    "sentencepiece": _sentencepiece_llama,
    "byte_level": lambda _: _byte_level_bpe(),
    "micro": lambda _: train_tokenizer(TEXTS, 400),
}


@pytest.fixture(scope="session", params=_FAMILIES)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    """Each of the three families in turn."""
    return _FAMILIES[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="session")
def sentencepiece_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    """The one with BOS and a dummy prefix."""
    return _sentencepiece_llama(tmp_path_factory.mktemp("sentencepiece"))


@pytest.fixture(scope="session")
def micro_tokenizer() -> PreTrainedTokenizerFast:
    """The micro benchmark's own."""
    return train_tokenizer(TEXTS, 400)


SMALL = MicroConfig(n_train=120, n_validation=20, n_test=40, n_test_pairs=40, max_filters=2, max_maps=2)


@pytest.fixture(scope="session")
def small_micro() -> dict[str, Records]:
    """A small micro benchmark with every structure in it."""
    return generate_micro(SMALL)
