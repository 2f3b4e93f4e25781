"""Batched sampling from any causal LM: what a program evaluator and an on-policy data source need.

Legend: R rows (one completion each) in the batch, L padded length, V vocabulary.

Against `generate`, it adds three things. Samples of one prompt share its prefill. Finished rows leave the batch, so
that one long completion does not cost a full batch. And randomness is a pure function of (seed, prompt, sample,
position): batch size, order and neighbours change a completion only where rounding of the logits, which does depend on
the batch's shape, decides between tokens.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from weighted_mtp.config import Section
from weighted_mtp.errors import UserError
from weighted_mtp.models.checkpoint import context_of

Finished = Literal["eos", "stop", "length"]
_NOT_FINITE = -1  # in place of a token
PROMPT_TAIL = 4  # prompt tokens that are decoded with a completion: SentencePiece drops the first token's space


class SamplingConfig(Section):
    """How completions are drawn."""

    max_new_tokens: int = Field(256, ge=1)
    """Longest completion; shorter where prompt and completion would outgrow the model's context."""
    temperature: float = Field(0.0, ge=0)
    """0 takes the likeliest token; else logits are divided by it."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Draw from the fewest likeliest tokens whose probabilities sum to this."""
    n_samples: int = Field(1, ge=1)
    """Completions of each prompt."""
    batch_size: int = Field(64, ge=1)
    """Completions in progress at a time."""
    seed: int = Field(0, ge=0, lt=2**32)
    """With the prompt's number, the sample's and the position it determines every draw."""
    stop: tuple[str, ...] = ()
    """A completion ends before the first of these; a benchmark's own are added if a starter is continued."""

    @model_validator(mode="after")
    def _every_option_has_an_effect(self) -> "SamplingConfig":
        if self.temperature == 0 and self.top_p < 1:
            raise ValueError(f"top_p={self.top_p} has no effect at temperature=0; set temperature, or top_p=1")
        if self.temperature == 0 and self.n_samples > 1:
            raise ValueError(f"n_samples={self.n_samples} would be equal at temperature=0; set temperature")
        if "" in self.stop:
            raise ValueError("stop: an empty string would end every completion at once; remove it")
        return self


@dataclass(frozen=True)
class Completion:
    """A completion without its prompt, its end token and its stop string."""

    text: str
    n_tokens: int  # drawn, including the end token or those of the stop string
    finished: Finished


@dataclass(frozen=True)
class Drawn:
    """The completion of prompt number `prompt` that is its sample number `sample`, both from 0."""

    prompt: int
    sample: int
    completion: Completion


@dataclass
class _Row:
    """A completion in progress."""

    prompt: int
    sample: int
    name: str  # of the prompt
    prompt_ids: list[int]
    budget: int  # tokens it may have
    tokens: list[int] = field(default_factory=list)
    draws: np.ndarray = field(default_factory=lambda: np.empty(0))  # (budget,) uniform in [0, 1), unless greedy


def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    config: SamplingConfig,
    on_progress: Callable[[int], None] | None = None,
    names: Sequence[str] | None = None,
) -> list[list[Completion]]:
    """`config.n_samples` completions of each prompt, in the prompts' order.

    model        a causal LM, or a policy (its head 1); put into eval mode meanwhile
    prompts      token ids, as `encode_prompt` gives them
    on_progress  called with the number of completions finished since the last call
    names        of the prompts, for messages; where not given, their numbers

    Raises UserError for a prompt that is empty or leaves no room for one token in the model's context, and where the
    model's logits are not finite.
    """
    found = {}
    for batch in sample_batches(model, tokenizer, prompts, config, on_progress=on_progress, names=names):
        found.update({(drawn.prompt, drawn.sample): drawn.completion for drawn in batch})
    return [[found[p, s] for s in range(config.n_samples)] for p in range(len(prompts))]


def sample_batches(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    config: SamplingConfig,
    chosen: Iterable[int] | None = None,
    on_progress: Callable[[int], None] | None = None,
    names: Sequence[str] | None = None,
) -> Iterator[list[Drawn]]:
    """The completions of `sample`, `config.batch_size` at a time, the longest prompts' first.

    chosen  numbers of the batches that are drawn, from 0; all where not given

    Which completions are a batch, and hence every bit of its logits, depends only on model, prompts and options: a
    batch is what it is whichever others are drawn, and by whom.

    Raises UserError as `sample`.
    """
    named = [f"prompt {p}" for p in range(len(prompts))] if names is None else names
    rows = _rows(model, prompts, config, named)
    ends = _end_tokens(model, tokenizer)
    text = _Text(tokenizer, config.stop)
    training = model.training
    model.eval()
    try:
        size = config.batch_size
        for number in range(-(-len(rows) // size)) if chosen is None else chosen:
            batch = rows[number * size : (number + 1) * size]
            drawn = {}
            for row, finished in _complete(model, batch, config, ends, text):
                completion = text.completion(row, finished, ends)
                drawn[row.prompt, row.sample] = Drawn(row.prompt, row.sample, completion)
                if on_progress is not None:
                    on_progress(1)
            yield [drawn[row.prompt, row.sample] for row in batch]
    finally:
        model.train(training)


def _rows(
    model: PreTrainedModel, prompts: Sequence[list[int]], config: SamplingConfig, names: Sequence[str]
) -> list[_Row]:
    """All completions to make, longest prompts first: little padding, and too large a batch fails at once."""
    context = context_of(model)
    rows = []
    for p, ids in sorted(enumerate(prompts), key=lambda item: -len(item[1])):
        room = config.max_new_tokens if context is None else min(config.max_new_tokens, context - len(ids))
        if not ids:
            raise UserError(f"{names[p]}: empty; give at least one token")
        if room < 1:
            raise UserError(f"{names[p]}: {len(ids)} tokens do not fit the model's context of {context}; shorten it")
        for s in range(config.n_samples):
            rows.append(_Row(p, s, names[p], ids, room))
    return rows


def _draws(row: _Row, seed: int) -> np.ndarray:
    """One uniform number a position, from a counter-based generator keyed by what the completion is."""
    key = np.random.SeedSequence([seed, row.prompt, row.sample])
    return np.random.Generator(np.random.Philox(key)).random(row.budget)


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """What ends a completion: the tokenizer's end token, and those that the model was tuned to give."""
    of_model = model.generation_config.eos_token_id if model.generation_config is not None else None
    listed = of_model if isinstance(of_model, list) else [of_model]
    return {token for token in [tokenizer.eos_token_id, *listed] if token is not None}


@torch.inference_mode()
def _complete(
    model: PreTrainedModel, rows: list[_Row], config: SamplingConfig, ends: set[int], text: "_Text"
) -> Iterator[tuple[_Row, Finished]]:
    """Draw token after token for all rows of a batch; yield each row when it is finished and drop it."""
    if config.temperature > 0:
        for row in rows:
            row.draws = _draws(row, config.seed)
    cache, mask, logits = _prefill(model, rows)
    position = mask.sum(1, keepdim=True)
    while True:
        tokens = _choose(logits, rows, config)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            if token == _NOT_FINITE:
                raise UserError(
                    f"{row.name}: the model's logits are not finite after {len(row.tokens)} tokens; its training "
                    "diverged, its weights are damaged, or they overflow in this dtype: try float32"
                )
            row.tokens.append(token)
        finished = [_finished(row, ends, stopped) for row, stopped in zip(rows, text.stopped(rows), strict=True)]
        yield from ((row, reason) for row, reason in zip(rows, finished, strict=True) if reason is not None)
        kept = [i for i, reason in enumerate(finished) if reason is None]
        if not kept:
            return
        if len(kept) < len(rows):
            index = torch.tensor(kept, device=mask.device)
            cache.batch_select_indices(index)
            mask, position, tokens = mask[index], position[index], tokens[index]
            rows = [rows[i] for i in kept]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        logits = _step(model, tokens[:, None], mask, position, cache)
        position = position + 1


def _prefill(model: PreTrainedModel, rows: list[_Row]) -> tuple[DynamicCache, Tensor, Tensor]:
    """Run each distinct prompt once, padded on the left; spread cache, mask (R, L) and logits (R, V) to its rows."""
    prompts = {row.prompt: row.prompt_ids for row in rows}
    length = max(map(len, prompts.values()))
    ids = torch.tensor([[0] * (length - len(p)) + p for p in prompts.values()], device=model.device)
    mask = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts.values()], device=model.device)
    cache = DynamicCache(config=model.config)
    logits = _step(model, ids, mask, (mask.cumsum(1) - 1).clamp(min=0), cache)
    place = {prompt: i for i, prompt in enumerate(prompts)}
    index = torch.tensor([place[row.prompt] for row in rows], device=model.device)
    cache.batch_select_indices(index)
    return cache, mask[index], logits[index]


def _step(model: PreTrainedModel, ids: Tensor, mask: Tensor, position: Tensor, cache: DynamicCache) -> Tensor:
    """Logits (R, V) after the last of `ids` (R, n), which `cache` takes in."""
    return model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=position,
        cache=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]


def _finished(row: _Row, ends: set[int], stopped: bool) -> Finished | None:
    if row.tokens[-1] in ends:
        return "eos"
    if stopped:
        return "stop"
    return "length" if len(row.tokens) == row.budget else None


def _choose(logits: Tensor, rows: list[_Row], config: SamplingConfig) -> Tensor:
    """Next token (R,) of each row: the likeliest, or the one whose slice of the cumulative distribution is drawn.

    `_NOT_FINITE` in rows whose largest logit is not finite, which NaN counts as: to find that costs no wait of its own
    for the device, and no number that is no token gets to the embedding.
    """
    largest, likeliest = logits.max(dim=-1)
    if config.temperature == 0:
        return likeliest.masked_fill(~largest.isfinite(), _NOT_FINITE)
    draws = torch.tensor([row.draws[len(row.tokens)] for row in rows], device=logits.device, dtype=torch.float64)
    probabilities = torch.softmax(logits.float() / config.temperature, dim=-1)
    if config.top_p < 1:
        probabilities = nucleus(probabilities, config.top_p)
    cumulative = probabilities.cumsum(dim=-1, dtype=torch.float64)
    drawn = torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True).squeeze(1)
    return drawn.masked_fill(~largest.isfinite(), _NOT_FINITE)


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Zero all but the fewest likeliest tokens whose probabilities sum to `top_p` (Holtzman et al., arXiv 1904.09751).

    probabilities (R, V) → (R, V), not renormalised. Sorts no more of the vocabulary than the flattest row needs.
    """
    size = probabilities.shape[-1]
    k = min(64, size)
    values, places = probabilities.topk(k)
    while k < size and values.sum(dim=-1).min() < top_p:
        k = min(8 * k, size)
        values, places = probabilities.topk(k)
    outside = values.cumsum(dim=-1) - values >= top_p
    return torch.zeros_like(probabilities).scatter(-1, places, values.masked_fill(outside, 0.0))


class _Text:
    """From tokens to text, and whether a stop string is in it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: tuple[str, ...]) -> None:
        self.tokenizer = tokenizer
        self.stop = stop
        # A token that shows has at least a byte, so a stop string that has just been completed is within these.
        self.window = max((len(s.encode()) for s in stop), default=0) + PROMPT_TAIL

    def stopped(self, rows: list[_Row]) -> list[bool]:
        """Which rows' completions hold a stop string now, of those whose did not before."""
        if not self.stop:
            return [False] * len(rows)
        recent = self.tokenizer.batch_decode(
            [(row.prompt_ids[-PROMPT_TAIL:] + row.tokens)[-self.window :] for row in rows], skip_special_tokens=True
        )
        return [
            any(s in end for s in self.stop) and self._cut(self._decode(row, row.tokens)) is not None
            for row, end in zip(rows, recent, strict=True)
        ]

    def completion(self, row: _Row, finished: Finished, ends: set[int]) -> Completion:
        tokens = row.tokens[:-1] if row.tokens[-1] in ends else row.tokens
        text = self._decode(row, tokens)
        return Completion(text[: self._cut(text)], len(row.tokens), finished)

    def _decode(self, row: _Row, tokens: list[int]) -> str:
        tail = row.prompt_ids[-PROMPT_TAIL:]
        before, after = self.tokenizer.batch_decode([tail, tail + tokens], skip_special_tokens=True)
        return after[len(before.rstrip("\ufffd")) :]  # a character that the prompt began belongs to the completion

    def _cut(self, text: str) -> int | None:
        """Where the first stop string begins; None without one."""
        return min((at for at in (text.find(s) for s in self.stop) if at >= 0), default=None)
