"""Llama 2's kind of SentencePiece model as a tokenizer of transformers."""

from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from meta_checkpoints import VOCABULARY, one_line, train_sentencepiece
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from weighted_mtp.data.prompts import decode_response, encode_example
from weighted_mtp.models.meta_tokenizer import llama_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tokenizer_model: Path, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    """Saved and loaded, as a policy's is."""
    folder = tmp_path_factory.mktemp("tokenizer")
    llama_tokenizer(tokenizer_model, VOCABULARY).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


WORDS = [
    "def",
    " ",
    "  ",
    "    ",
    "\n",
    "\t",
    "solve",
    "(xs)",
    ":",
    "</s>",
    "<s>",
    "<unk>",
    "<0x0A>",
    "é",
    "中",
    "😀",
    "ﬁ",
]
programs = st.one_of(st.text(), st.lists(st.sampled_from(WORDS), max_size=12).map("".join)).filter(
    lambda text: text.isascii() or text.encode("utf-8", "ignore").decode() == text
)


@pytest.fixture(scope="module")
def pieces(tokenizer_model: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(tokenizer_model))


@given(text=programs)
def test_ids_are_sentencepieces_own(
    text: str, tokenizer: PreTrainedTokenizerBase, pieces: sentencepiece.SentencePieceProcessor
) -> None:
    assert tokenizer.encode(text, split_special_tokens=True) == [1, *pieces.encode(text)]


@given(text=programs.filter(lambda text: "▁" not in text))
def test_white_space_of_programs_survives(text: str, tokenizer: PreTrainedTokenizerBase) -> None:
    sample = encode_example(tokenizer, "Task:\n", text)
    assert sample.input_ids[0] == tokenizer.bos_token_id
    assert sample.input_ids.count(tokenizer.eos_token_id) == 1
    prompt, response = sample.input_ids[: sample.response_start], sample.input_ids[sample.response_start :]
    assert decode_response(tokenizer, prompt, response) == text


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "unigram"},
        {"normalization_rule_name": "nmt_nfkc"},
        {"remove_extra_whitespaces": True},
        {"byte_fallback": False},
        {"add_dummy_prefix": False},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_tokenizer_unlike_llama_2s_is_refused(changes: dict, tmp_path: Path) -> None:
    size = 300 if changes.get("byte_fallback", True) else 100
    file = train_sentencepiece(tmp_path / "tokenizer.model", size, **changes)
    one_line(r"tokenizer\.model: not like Llama 2's", llama_tokenizer, file, size)
