"""Completions in progress: how a row's tokens are chosen, and when it is finished.

Legend: R rows (one completion each), n tokens of a row that are chosen at once, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import GenerationConfig, PreTrainedTokenizerBase

from weighted_mtp.errors import UserError

Finished = Literal["eos", "stop", "length"]
NOT_FINITE = -1  # in place of a token
_BLOCK, _ONE_LEVEL = 256, 4096  # of the vocabulary: summed up by blocks if it is larger than the second
_IN_CACHE = 2**18  # numbers of fp32 that a core keeps near; larger tensors cost it their way to memory and back
PROMPT_TAIL = 4  # prompt tokens that are decoded with a completion: SentencePiece drops the first token's space


@dataclass(frozen=True)
class Pass:
    """One forward pass with drafts: `tokens` are what it made certain, accepted drafts and then head 1's own.

    drafts  of heads 2 … H, as many as there are
    """

    drafts: tuple[int, ...]
    tokens: tuple[int, ...]

    @property
    def n_accepted(self) -> int:
        return len(self.tokens) - 1


@dataclass(frozen=True)
class Completion:
    """A completion without its prompt, its end token and its stop string."""

    text: str
    n_tokens: int  # drawn, including the end token or those of the stop string
    finished: Finished
    n_passes: int = field(default=0, compare=False)  # forward passes that it took, each of which gives a token or more
    drafted: tuple[Pass, ...] = field(default=(), compare=False, repr=False)  # of a policy whose heads draft


@dataclass
class Row:
    """A completion in progress."""

    prompt: int
    sample: int
    name: str  # of the prompt
    prompt_ids: list[int]
    budget: int  # tokens it may have
    tokens: list[int] = field(default_factory=list)
    draws: np.ndarray | None = None  # (budget,) uniform in [0, 1); None for greedy
    n_passes: int = 0
    drafted: list[Pass] = field(default_factory=list)  # the passes that had drafts

    @classmethod
    def of(
        cls, prompt: int, sample: int, name: str, prompt_ids: list[int], max_new_tokens: int, context: int | None
    ) -> "Row":
        """A completion that has not begun. Raises UserError for a prompt that is empty, or leaves no room for a token
        in the model's context (None if its configuration does not say)."""
        length = len(prompt_ids)
        budget = max_new_tokens if context is None else min(max_new_tokens, context - length)
        if length == 0:
            raise UserError(f"{name}: empty; give at least one token")
        if budget < 1:
            raise UserError(f"{name}: {length} tokens do not fit the model's context of {context}; shorten it")
        return cls(prompt, sample, name, prompt_ids, budget)

    def take(self, tokens: Sequence[int], ends: set[int]) -> int:
        """Append the first of `tokens` that the completion has room for, up to an end token; how many.

        Raises UserError at the first that stands for logits which are not finite.
        """
        before = len(self.tokens)
        for token in tokens[: self.budget - before]:
            if token == NOT_FINITE:
                raise UserError(
                    f"{self.name}: the model's logits are not finite after {len(self.tokens)} tokens; its training "
                    "diverged, its weights are damaged, or they overflow in this dtype: try float32"
                )
            self.tokens.append(token)
            if token in ends:
                break
        return len(self.tokens) - before


def uniform_draws(row: Row, seed: int) -> np.ndarray:
    """One uniform number a position, from a counter-based generator keyed by what the completion is."""
    key = np.random.SeedSequence([seed, row.prompt, row.sample])
    return np.random.Generator(np.random.Philox(key)).random(row.budget)


@dataclass(frozen=True)
class Choice:
    """From logits to tokens: the likeliest at temperature 0, else drawn by inverting the cumulative distribution."""

    temperature: float
    top_p: float

    def __call__(self, logits: Tensor, draws: Tensor | None) -> Tensor:
        """Tokens (…) of logits (…, V); `draws` (…) in [0, 1) unless greedy.

        `NOT_FINITE` where the largest logit is not finite, which NaN counts as: to find that costs no wait of its own
        for the device, and no number that is no token gets to the embedding.
        """
        if self.temperature == 0:
            largest, likeliest = logits.max(dim=-1)
            return likeliest.masked_fill(~largest.isfinite(), NOT_FINITE)
        assert draws is not None
        each, numbers = logits.flatten(0, -2), draws.flatten()
        at_once = max(1, _IN_CACHE // logits.shape[-1]) if logits.device.type == "cpu" else len(each)
        parts = zip(each.split(at_once), numbers.split(at_once), strict=True)
        return torch.cat([self._drawn(part, number) for part, number in parts]).view(draws.shape)

    def _drawn(self, logits: Tensor, draws: Tensor) -> Tensor:
        """Tokens (N,) of logits (N, V): first the block of the vocabulary, then the token in it.

        So only the sums of blocks and one block of each row are summed up one by one, and in the widest type.
        """
        scaled = logits / torch.full((1,), self.temperature, device=logits.device)  # in fp32, whatever logits are
        probabilities = torch.softmax(scaled, dim=-1)
        if self.top_p < 1:
            probabilities = nucleus(probabilities, self.top_p)
        if logits.shape[-1] <= _ONE_LEVEL:
            ends = probabilities.cumsum(dim=-1, dtype=draws.dtype)
            drawn = torch.searchsorted(ends, draws[:, None] * ends[:, -1:], right=True).squeeze(-1)
            drawn = drawn.clamp(max=logits.shape[-1] - 1)  # in fp32 the largest draw may round up to the sum
        else:
            blocks = _blocks(probabilities)
            ends = blocks.sum(dim=-1).to(draws.dtype).cumsum(dim=-1)
            block, left = _inverted(ends, draws * ends[:, -1])
            rows = torch.arange(len(logits), device=logits.device)
            within, _ = _inverted(blocks[rows, block].cumsum(dim=-1, dtype=draws.dtype), left)
            drawn = block * _BLOCK + within
        return drawn.masked_fill(~ends[:, -1].isfinite(), NOT_FINITE)


def _blocks(probabilities: Tensor) -> Tensor:
    """(N, V) → (N, V / 256, 256), with zeros at the end where V is no multiple."""
    missing = -probabilities.shape[-1] % _BLOCK
    return (pad(probabilities, (0, missing)) if missing else probabilities).unflatten(-1, (-1, _BLOCK))


def _inverted(ends: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Which interval of each row (N, K) holds `at` (N,), and how far behind the interval's start it lies.

    ends  where intervals end, ascending; the first begins at 0. A number at or beyond the last end, as rounding makes
    one, lies in the last interval that is not empty.
    """
    last = torch.searchsorted(ends, ends[:, -1:].contiguous())
    place = torch.minimum(torch.searchsorted(ends, at[:, None], right=True), last).squeeze(-1)
    place = place.clamp(max=ends.shape[-1] - 1)  # where ends are NaN
    starts = pad(ends, (1, 0))
    return place, at - starts[torch.arange(len(ends), device=ends.device), place]


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Zero all but the fewest likeliest tokens whose probabilities sum to `top_p` (Holtzman et al., arXiv 1904.09751).

    probabilities (…, V) → (…, V), not renormalised. Sorts no more of the vocabulary than the flattest row needs.
    """
    size = probabilities.shape[-1]
    k = min(64, size)
    values, places = probabilities.topk(k)
    while k < size and values.sum(dim=-1).min() < top_p:
        k = min(8 * k, size)
        values, places = probabilities.topk(k)
    outside = values.cumsum(dim=-1) - values >= top_p
    return torch.zeros_like(probabilities).scatter(-1, places, values.masked_fill(outside, 0.0))


def end_tokens(generation: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """What ends a completion: the tokenizer's end token, and those that the model was tuned to give.

    generation  the model's own, if it has one
    """
    of_model = generation.eos_token_id if generation is not None else None
    listed = of_model if isinstance(of_model, list) else [of_model]
    return {token for token in [tokenizer.eos_token_id, *listed] if token is not None}


class Text:
    """From tokens to text, and when a row is finished.

    stop  a completion ends before the first of these
    ends  tokens that end one
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: tuple[str, ...], ends: set[int]) -> None:
        self.tokenizer = tokenizer
        self.stop = stop
        self.ends = ends
        # A token that shows has at least a byte, so a stop string that has just been completed is within these.
        self.window = max((len(s.encode()) for s in stop), default=0) + PROMPT_TAIL

    def extend(self, rows: Sequence[Row], tokens: Sequence[Sequence[int]]) -> list[Finished | None]:
        """Append each row's new tokens, as far as it goes on; whether and how it is finished."""
        taken = [row.take(new, self.ends) for row, new in zip(rows, tokens, strict=True)]
        stopped = self._stopped(rows, taken)
        return [self._finished(row, stop) for row, stop in zip(rows, stopped, strict=True)]

    def _finished(self, row: Row, stopped: bool) -> Finished | None:
        if row.tokens[-1] in self.ends:
            return "eos"
        if stopped:
            return "stop"
        return "length" if len(row.tokens) == row.budget else None

    def _stopped(self, rows: Sequence[Row], taken: Sequence[int]) -> list[bool]:
        """Which rows' completions hold a stop string now; they are cut after the token that completes it."""
        if not self.stop:
            return [False] * len(rows)
        recent = self.tokenizer.batch_decode(
            [
                (row.prompt_ids[-PROMPT_TAIL:] + row.tokens)[-self.window - new :]
                for row, new in zip(rows, taken, strict=True)
            ],
            skip_special_tokens=True,
        )
        return [
            any(s in end for s in self.stop) and self._cut_tokens(row, new)
            for row, new, end in zip(rows, taken, recent, strict=True)
        ]

    def _cut_tokens(self, row: Row, new: int) -> bool:
        """Drop what follows the first of the `new` last tokens at which the text holds a stop string; if there is one.

        An end token stays where it is, since it is no part of the text.
        """
        for length in range(len(row.tokens) - new + 1, len(row.tokens) + 1):
            if self._cut(self._decode(row, row.tokens[:length])) is not None:
                del row.tokens[length:]
                return True
        return False

    def completion(self, row: Row, finished: Finished) -> Completion:
        tokens = row.tokens[:-1] if row.tokens[-1] in self.ends else row.tokens
        text = self._decode(row, tokens)
        return Completion(text[: self._cut(text)], len(row.tokens), finished, row.n_passes, tuple(row.drafted))

    def _decode(self, row: Row, tokens: list[int]) -> str:
        tail = row.prompt_ids[-PROMPT_TAIL:]
        before, after = self.tokenizer.batch_decode([tail, tail + tokens], skip_special_tokens=True)
        return after[len(before.rstrip("\ufffd")) :]  # a character that the prompt began belongs to the completion

    def _cut(self, text: str) -> int | None:
        """Where the first stop string begins; None without one."""
        return min((at for at in (text.find(s) for s in self.stop) if at >= 0), default=None)
