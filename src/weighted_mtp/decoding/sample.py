"""Batched sampling from any causal LM: what a program evaluator and an on-policy data source need.

Against `generate`, it adds four things. A policy drafts with its further heads (`speculative`). Samples of one prompt
share its prefill and, where they are several, its keys and values. A finished row is replaced by the next at once, so
that one long completion does not cost a full batch. And randomness is a pure function of (seed, prompt, sample,
position): batch size, order, neighbours and drafts change a completion only where rounding of the logits, which does
depend on a pass's shape, decides between tokens.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from weighted_mtp.decoding.config import SamplingConfig
from weighted_mtp.decoding.forward import over_slots
from weighted_mtp.decoding.padded import decode_padded
from weighted_mtp.decoding.rows import Choice, Completion, Finished, Row, Text, end_tokens, uniform_draws
from weighted_mtp.decoding.speculative import decode
from weighted_mtp.errors import UserError
from weighted_mtp.models.checkpoint import context_of
from weighted_mtp.models.mtp import MTPForCausalLM

Completed = Iterator[tuple[Row, Finished]]

_MOST_BATCHES, _UNITS = 8, 16  # batches of a unit, and units that there are before one has more than a batch
_TOKENS_A_PASS = {  # up to which a pass costs so little more than one of a token a row that good drafts gain
    ("cpu", torch.float32): 4,
    ("cpu", torch.bfloat16): 256,
}


@dataclass(frozen=True)
class Drawn:
    """The completion of prompt number `prompt` that is its sample number `sample`, both from 0."""

    prompt: int
    sample: int
    completion: Completion


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
    for unit in sample_batches(model, tokenizer, prompts, config, on_progress=on_progress, names=names):
        found.update({(drawn.prompt, drawn.sample): drawn.completion for drawn in unit})
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
    """The completions of `sample`, a unit (`unit_size`) at a time, the longest prompts' first.

    chosen  numbers of the units that are drawn, from 0; all where not given

    Which completions are a unit, and hence every bit of its logits, depends only on model, prompts and options: a
    unit is what it is whichever others are drawn, and by whom.

    Raises UserError as `sample`.
    """
    named = [f"prompt {p}" for p in range(len(prompts))] if names is None else names
    rows = _rows(model, prompts, config, named)
    text = Text(tokenizer, config.stop, end_tokens(model.generation_config, tokenizer))
    training = model.training
    model.eval()
    try:
        decode_rows = _decoder(model, config, text)
        size = unit_size(len(prompts), config)
        for number in range(-(-len(rows) // size)) if chosen is None else chosen:
            unit = rows[number * size : (number + 1) * size]
            drawn = {}
            for row, finished in decode_rows(unit):
                drawn[row.prompt, row.sample] = Drawn(row.prompt, row.sample, text.completion(row, finished))
                if on_progress is not None:
                    on_progress(1)
            yield [drawn[row.prompt, row.sample] for row in unit]
    finally:
        model.train(training)


def unit_size(n_prompts: int, config: SamplingConfig) -> int:
    """How many completions are a unit: so few that ranks can share the units out evenly, and at most eight batches.

    Within a unit finished rows are replaced, so that only its end runs with a batch that is not full.
    """
    batches = n_prompts * config.n_samples // (_UNITS * config.batch_size)
    return config.batch_size * min(_MOST_BATCHES, max(1, batches))


def _decoder(model: PreTrainedModel, config: SamplingConfig, text: Text) -> Callable[[list[Row]], Completed]:
    """What completes the rows of a unit. Raises UserError if `draft` has no effect."""
    choice = Choice(config.temperature, config.top_p)
    drafting = drafts(model, config)
    forward = over_slots(model, drafting)
    if forward is not None:
        return lambda rows: decode(forward, rows, config.batch_size, choice, text, may_stop=config.draft is None)
    if drafting and config.draft is not None:
        raise UserError(
            f"draft=heads: {type(model.base).__name__} does not keep keys and values in a cache that drafts can be "
            "taken back from; set draft=none"
        )
    size = config.batch_size
    return lambda rows: (
        done for at in range(0, len(rows), size) for done in decode_padded(model, rows[at : at + size], choice, text)
    )


def drafts(model: PreTrainedModel, config: SamplingConfig) -> bool:
    """Whether heads draft, at first if `draft` is not given. Raises UserError for a `draft` that cannot be."""
    heads = model.config.n_future_tokens if isinstance(model, MTPForCausalLM) else 0
    if config.draft == "heads" and heads < 2:
        has = "no prediction heads" if heads == 0 else "one head, and only further ones draft"
        raise UserError(f"draft=heads has no effect: the model has {has}; leave it out")
    if config.draft is None and heads > 1:
        return config.batch_size * heads <= _TOKENS_A_PASS.get((model.device.type, model.dtype), 512)
    return config.draft == "heads"


def _rows(
    model: PreTrainedModel, prompts: Sequence[list[int]], config: SamplingConfig, names: Sequence[str]
) -> list[Row]:
    """All completions to make, longest prompts first: little padding, and too large a batch fails at once."""
    context = context_of(model)
    rows = []
    for p, ids in sorted(enumerate(prompts), key=lambda item: -len(item[1])):
        for s in range(config.n_samples):
            rows.append(Row.of(p, s, names[p], ids, config.max_new_tokens, context))
            if config.temperature > 0:
                rows[-1].draws = uniform_draws(rows[-1], config.seed)
    return rows
