"""Llama 2's SentencePiece model as a tokenizer of transformers that gives the same ids for the same text.

transformers' own `LlamaTokenizer` does not: it leaves out the dummy prefix '▁' before text that begins with a space,
and may merge the text "</s>" into the control token of that name.
"""

from pathlib import Path

from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from weighted_mtp.errors import UserError
from weighted_mtp.models.checkpoint import SENTENCEPIECE

# What tells a tokenizer for programs, which takes text as it is, from one that normalises it or knows no bytes.
_SAMPLE = "  def f(x):\n    if x:\n\treturn  'ﬁ é 中 😀'  # </s> <s>\n\n        deep\r\n "


def find_sentencepiece(source: Path, given: Path | None) -> Path:
    """`given`, or the tokenizer.model of `source` or of the folder above it. UserError if there is none."""
    if given is not None:
        if not given.is_file():
            raise UserError(f"{given}: no such file; give --tokenizer with a SentencePiece {SENTENCEPIECE}")
        return given
    for folder in (source, source.resolve().parent):
        if (folder / SENTENCEPIECE).is_file():
            return folder / SENTENCEPIECE
    raise UserError(f"{source}: no {SENTENCEPIECE} in it or in the folder above; give --tokenizer with Llama 2's")


def read_sentencepiece(file: Path, vocabulary: int) -> SentencePieceProcessor:
    """A SentencePiece model of `vocabulary` pieces. UserError if it cannot be read or has another number."""
    try:
        pieces = SentencePieceProcessor(model_file=str(file))
    except (RuntimeError, OSError) as error:
        raise UserError(f"{file}: cannot be read as a SentencePiece model; give Llama 2's {SENTENCEPIECE}") from error
    if pieces.vocab_size() != vocabulary:
        raise UserError(
            f"{file}: has {pieces.vocab_size()} tokens, but the model embeds {vocabulary}; give the model's own"
        )
    return pieces


def llama_tokenizer(file: Path, vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer with SentencePiece's own ids; it puts BOS before a text and no EOS after it.

    As everywhere in transformers, the *names* of control tokens stand for these tokens, unless
    `split_special_tokens=True` is given; to SentencePiece they are text.

    Raises UserError for what `read_sentencepiece` refuses, and for a model that is not like Llama 2's (BPE with byte
    fallback and a dummy prefix, text not normalised).
    """
    pieces = read_sentencepiece(file, vocabulary)
    names = [pieces.id_to_piece(i) for i in range(vocabulary)]
    unknown, begin, end = (names[i] for i in (pieces.unk_id(), pieces.bos_id(), pieces.eos_id()))
    backend = Tokenizer(
        models.BPE(
            vocab={name: i for i, name in enumerate(names)},
            merges=_merges(pieces, names),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    strip = decoders.Strip(content=" ", left=1, right=0)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=[(begin, pieces.bos_id())]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=unknown,
        bos_token=begin,
        eos_token=end,
        clean_up_tokenization_spaces=False,
    )
    ids = tokenizer.encode(_SAMPLE, add_special_tokens=False, split_special_tokens=True)
    if ids != pieces.encode(_SAMPLE) or tokenizer.decode(ids) != _SAMPLE:
        raise UserError(f"{file}: not like Llama 2's (BPE with byte fallback, text not normalised); give that one")
    return tokenizer


def _merges(pieces: SentencePieceProcessor, names: list[str]) -> list[tuple[str, str]]:
    """SentencePiece joins two neighbours whenever their text is a piece, pieces of the highest score first."""
    of_text = [i for i in range(len(names)) if not (pieces.is_control(i) or pieces.is_unknown(i) or pieces.is_byte(i))]
    known = {names[i] for i in of_text}
    ranked = (names[i] for i in sorted(of_text, key=lambda i: -pieces.get_score(i)))
    splits = ((name[:at], name[at:]) for name in ranked for at in range(1, len(name)))
    return [(left, right) for left, right in splits if left in known and right in known]
