"""Decoding with transformers' own cache, for models that do not compute over slots: one batch, padded on the left.

Legend: R rows, L padded length, V vocabulary.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from weighted_mtp.decoding.rows import Choice, Finished, Row, Text
from weighted_mtp.runtime.device import widest


@torch.inference_mode()
def decode_padded(
    model: PreTrainedModel, rows: list[Row], choice: Choice, text: Text
) -> Iterator[tuple[Row, Finished]]:
    """Draw token after token for all rows of a batch; yield each row when it is finished and drop it."""
    cache, mask, logits = _prefill(model, rows)
    position = mask.sum(1, keepdim=True)
    while True:
        draws = None
        if choice.temperature > 0:
            draws = torch.tensor([row.draws[len(row.tokens)] for row in rows if row.draws is not None])
            draws = draws.to(widest(logits.device)).to(logits.device)
        tokens = choice(logits, draws)
        for row in rows:
            row.n_passes += 1
        finished = text.extend(rows, tokens[:, None].tolist())
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


def _prefill(model: PreTrainedModel, rows: list[Row]) -> tuple[DynamicCache, Tensor, Tensor]:
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
