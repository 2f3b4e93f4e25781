"""Drafting heads for transformers' own `generate`:

    policy.generate(**inputs, max_new_tokens=200, custom_generate=draft_with_heads)

`generate` prepares inputs, logits processors and stopping criteria from its GenerationConfig as ever; this is the loop.
"""

from typing import Any, cast

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.utils import GenerateDecoderOnlyOutput

from weighted_mtp.decoding.forward import Forward, over_slots
from weighted_mtp.decoding.slots import SlotCache
from weighted_mtp.errors import UserError
from weighted_mtp.models.mtp import MTPForCausalLM


@torch.no_grad()
def draft_with_heads(
    model: MTPForCausalLM,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    synced_gpus: bool = False,
    **model_kwargs: Any,
) -> Tensor | GenerateDecoderOnlyOutput:
    """Greedy search or sampling in which heads 2 … H draft and head 1 decides, H tokens a pass (`speculative`).

    Every token is head 1's: the likeliest, or drawn from its processed distribution behind the tokens before. A draft
    is accepted where it is that token. So greedy search gives what plain `generate` gives, and sampling its
    distribution; a single sequence takes from torch's generator one draw a token, as plain `generate` does, and is
    the same under the same seed.

    Rows may be of different lengths, padded on the left. Criteria see one row at a time. A streamer gets
    nothing: `generate` does not hand it to a loop that is not its own.

    Raises UserError for a model without drafting heads, for beams, for output other than sequences, and for a cache or
    embeddings instead of token ids.
    """
    _check(model, generation_config, synced_gpus, model_kwargs)
    forward = over_slots(model, drafts=True)
    if forward is None:
        raise UserError(
            f"draft_with_heads: {type(model.base).__name__} keeps no keys and values that can be taken back"
        )
    rows = _Rows(forward, input_ids, model_kwargs.get("attention_mask"))
    while rows.active:
        for place, logits in enumerate(rows.logits()):
            row = rows.active[place]
            for each, drafted in zip(logits, rows.drafts(place), strict=True):
                scores = _processed(logits_processor, row, each, len(input_ids))
                token = _chosen(scores, generation_config.do_sample)
                row.ids = torch.cat([row.ids, token[:, None]], dim=1)
                row.is_done = bool(stopping_criteria(row.ids, None).all())
                if row.is_done or int(token) != drafted:
                    break
        rows.advance()
    sequences = rows.padded(generation_config).to(input_ids.device)
    if generation_config.return_dict_in_generate:
        return GenerateDecoderOnlyOutput(sequences=cast(Any, sequences))
    return sequences


def _processed(processors: LogitsProcessorList, row: "_Row", logits: Tensor, n_rows: int) -> Tensor:
    """Scores (1, V). Processors may hold something of each row of the batch, so they are given as many rows."""
    if not processors:
        return logits[None].float()
    scores = processors(cast(Any, row.ids.expand(n_rows, -1)), cast(Any, logits.float().repeat(n_rows, 1)))
    return scores[row.number : row.number + 1]


def _chosen(scores: Tensor, do_sample: bool) -> Tensor:
    """Token (1,) of scores (1, V)."""
    if do_sample:
        return torch.multinomial(torch.softmax(scores, dim=-1), num_samples=1)[:, 0]
    return scores.argmax(dim=-1)


class _Row:
    def __init__(self, number: int, ids: Tensor, n_padding: int) -> None:
        self.number = number  # in the batch
        self.ids = ids  # (1, T), padding included
        self.n_padding = n_padding
        self.is_done = False

    @property
    def n_read(self) -> int:
        """Tokens in the cache: all but the newest."""
        return self.ids.shape[1] - self.n_padding - 1


class _Rows:
    """Rows in progress, in the cache's order, each with its newest token and the drafts behind it."""

    def __init__(self, forward: Forward, input_ids: Tensor, mask: Tensor | None) -> None:
        self._forward = forward
        self._n = forward.n_drafts + 1
        device = forward.model.device
        padding = [0] * len(input_ids) if mask is None else (mask == 0).sum(dim=1).tolist()
        self._all = [_Row(i, input_ids[i : i + 1].to(device), n) for i, n in enumerate(padding)]
        self.active = list(self._all)
        self._cache = SlotCache(len(self._all))
        self._ids: list[list[int]] = []
        self._read: Any = None
        for place, prefix in enumerate(forward.prefill([row.ids[0, row.n_padding :].tolist() for row in self._all])):
            self._cache.start(place, prefix)
            drafts = [0] * forward.n_drafts if prefix.drafting is None else prefix.drafting.argmax(dim=-1).tolist()
            self._ids.append([int(self._all[place].ids[0, -1]), *drafts])

    def logits(self) -> Tensor:
        """Head 1's, (R, n, V), behind each row's newest token and behind each draft."""
        self._starts = [row.n_read for row in self.active]
        device = self._forward.model.device
        positions = torch.tensor(self._starts, device=device)[:, None] + torch.arange(self._n, device=device)
        ids = torch.tensor(self._ids, device=device)
        logits, self._read = self._forward(ids, positions, positions, max(self._starts) + self._n, self._cache)
        return logits

    def drafts(self, place: int) -> list[int | None]:
        """What is drafted at each of the n places; nothing at the last."""
        return [*self._ids[place][1:], None]

    def advance(self) -> None:
        """Draft again behind what each row has accepted, and let finished rows go."""
        accepted = [row.n_read - start - 1 for row, start in zip(self.active, self._starts, strict=True)]
        at = torch.tensor(accepted, device=self._forward.model.device)
        drafts = self._forward.drafts(self._read, at, self._cache).argmax(dim=-1).tolist()
        self._ids = [[int(row.ids[0, -1]), *new] for row, new in zip(self.active, drafts, strict=True)]
        for place in reversed([i for i, row in enumerate(self.active) if row.is_done]):
            row, ids = self.active.pop(), self._ids.pop()
            if place < len(self.active):
                self._cache.move(len(self.active), place, row.n_read)
                self.active[place], self._ids[place] = row, ids

    def padded(self, generation_config: GenerationConfig) -> Tensor:
        """All rows (R, T), padded on the right."""
        pad = getattr(generation_config, "_pad_token_tensor", None)
        longest = max(row.ids.shape[1] for row in self._all)
        padded = torch.full((len(self._all), longest), 0 if pad is None else int(pad), device=self._all[0].ids.device)
        for place, row in enumerate(self._all):
            padded[place, : row.ids.shape[1]] = row.ids[0]
        return padded


def _check(model: Any, config: GenerationConfig, synced_gpus: bool, model_kwargs: dict[str, Any]) -> None:
    if not isinstance(model, MTPForCausalLM) or model.config.n_future_tokens < 2:
        raise UserError("draft_with_heads: the model has no further heads to draft with; call generate without it")
    if (config.num_beams or 1) > 1:
        raise UserError(f"num_beams={config.num_beams}: heads draft one continuation; set num_beams=1")
    for name in ("output_scores", "output_logits", "output_attentions", "output_hidden_states"):
        if getattr(config, name):
            raise UserError(
                f"{name}=True: draft_with_heads returns sequences; leave it out, or call generate without it"
            )
    if synced_gpus:
        raise UserError("synced_gpus=True: ranks would take different numbers of passes; call generate without drafts")
    given = model_kwargs.get("inputs_embeds") is not None or getattr(
        model_kwargs.get("cache"), "_is_user_defined", False
    )
    if given:
        raise UserError("inputs_embeds or a cache: draft_with_heads begins with token ids; give input_ids alone")
