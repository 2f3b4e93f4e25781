"""The forward pass of any causal LM over slots, with a policy's drafting heads or without.

Legend: R rows, n tokens of a row in one pass, S slots, V vocabulary, D hidden size, H heads of a policy.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from weighted_mtp.decoding.lean import lean
from weighted_mtp.decoding.shared_prompts import Prefix
from weighted_mtp.decoding.slots import SlotCache
from weighted_mtp.models.checkpoint import context_of
from weighted_mtp.models.mtp import MTPForCausalLM

_KERNELS = ("sdpa", "eager")  # those that take a mask of any form


class Forward:
    """A causal LM, or a policy with its drafting heads, over a `SlotCache`.

    drafts   whether heads 2 … H run, too; else the model is what its own `forward` makes of it
    modules  whether to call the model's own modules even where there is a leaner way
    """

    def __init__(self, model: PreTrainedModel, drafts: bool, modules: bool = False) -> None:
        self.model = model
        self.policy = model if drafts and isinstance(model, MTPForCausalLM) else None
        self._config = model.config.get_text_config(decoder=True)
        self._context = context_of(model)
        self._lean = None if modules else lean(model)

    def stop_drafting(self) -> None:
        """Go on with head 1 alone, over the same cache."""
        self.policy = None

    @property
    def n_drafts(self) -> int:
        """How many tokens are drafted at a time."""
        return 0 if self.policy is None else self.policy.config.n_future_tokens - 1

    @property
    def shares_prompts(self) -> bool:
        """Whether rows may share a prompt's keys and values: where each token sees all before it."""
        return self._lean is not None and getattr(self._config, "sliding_window", None) is None

    def __call__(
        self, ids: Tensor, positions: Tensor, slots: Tensor, length: int, cache: SlotCache, logits: bool = True
    ) -> tuple[Tensor, Any]:
        """Logits (R, n, V) behind each of ids (R, n), and what `drafts` goes on with.

        positions  (R, n) in the text; drafts may be beyond the model's context, and no use is made of those
        slots      (R, n) in the cache, all below `length`
        logits     whether all are needed; else what is returned for them is not to be used
        """
        cache.aim(slots, length)
        within = positions if self._context is None else positions.clamp(max=self._context - 1)
        if self._lean is not None:
            return self._lean(ids, within, self._seen(slots, length)[-1][:, None], cache, logits)
        given = {
            "input_ids": ids,
            "attention_mask": self._masks(slots, length),
            "position_ids": within,
            "cache": cache,
            "use_cache": True,
        }
        if self.policy is None:
            return self.model(**given, logits_to_keep=0 if logits else 1).logits, None
        with self.policy.heads.all_active(detach_extra=False):
            states = self.policy.get_decoder()(**given).last_hidden_state
        return self.policy.unembed(states[0] if logits else states[0, :, -1:]), states[1:]

    def drafts(self, read: Any, at: Tensor, cache: SlotCache) -> Tensor:
        """The drafting heads' logits (R, H − 1, V) at token `at` (R,) of the n that a pass read of each row.

        To be called after every pass: before, these heads may not have read its tokens.
        """
        assert self.policy is not None
        if self._lean is not None:
            return self._lean.drafts(read, at, cache)
        return self.policy.unembed(read[:, torch.arange(len(at), device=at.device), at]).transpose(0, 1)

    def prefill(self, prompts: Sequence[list[int]]) -> list[Prefix]:
        """What each prompt leaves behind, from one pass over all of them, padded on the right."""
        lengths = [len(prompt) - 1 for prompt in prompts]
        longest = max(lengths)
        if longest == 0:
            return [Prefix(0, {}, {})] * len(prompts)
        device = self.model.device
        ids = torch.tensor([prompt[:-1] + [0] * (longest - n) for prompt, n in zip(prompts, lengths, strict=True)])
        positions = torch.arange(longest, device=device).expand(len(prompts), -1)
        cache = SlotCache(len(prompts))
        _, read = self(ids.to(device), positions, positions, longest, cache, logits=False)
        if self.policy is None:
            return [cache.prefix(row, n, None) for row, n in enumerate(lengths)]
        last = (torch.tensor(lengths, device=device) - 1).clamp(min=0)
        logits = self.drafts(read, last, cache)
        return [cache.prefix(row, n, logits[row] if n else None) for row, n in enumerate(lengths)]

    def _masks(self, slots: Tensor, length: int) -> Any:
        """Which slots each token sees, as the model takes it: of all layers, or of each kind of layers."""
        masks = [self._of_kernel(seen) for seen in self._seen(slots, length)]
        return masks[0] if len(masks) == 1 else dict(zip(("full_attention", "sliding_attention"), masks, strict=True))

    def _seen(self, slots: Tensor, length: int) -> list[Tensor]:
        """(R, n, S): all slots up to each token's own, or those of a window, or both if layers differ."""
        slot, own = torch.arange(length, device=slots.device), slots[:, :, None]
        seen = slot <= own
        kinds = set(getattr(self._config, "layer_types", None) or ())
        window = getattr(self._config, "sliding_window", None)
        if window is None or kinds == {"full_attention"}:
            return [seen]
        near = seen & (slot > own - window)
        return [near] if len(kinds) <= 1 else [seen, near]

    def _of_kernel(self, seen: Tensor) -> Tensor:
        """(R, n, S) as the attention kernel takes it: (R, 1, n, S), true on what is seen, or to be added to scores."""
        seen = seen[:, None]
        if self._config._attn_implementation == "sdpa":
            return seen
        lowest = torch.finfo(self.model.dtype).min
        return torch.zeros_like(seen, dtype=self.model.dtype).masked_fill(~seen, lowest)


@torch.inference_mode()
def takes_slots(forward: Forward) -> bool:
    """Whether a model computes over slots what it computes without a cache: tried out on a few tokens.

    Models whose state is no list of keys and values, or whose positions are none of `position_ids`, do not.
    """
    model = forward.model
    config = model.config.get_text_config(decoder=True)
    if config._attn_implementation not in _KERNELS:
        return False
    middle = config.vocab_size // 2  # tokens of text: rounding may change all logits behind a special one
    prompts = [[(middle + i) % config.vocab_size for i in row] for row in ((0, 1, 2), (3, 4, 5))]
    ids = torch.tensor(prompts, device=model.device)
    try:
        expected = model(input_ids=ids, use_cache=False).logits.float()
        cache = SlotCache(2)
        for prefix, row in zip(forward.prefill([prompts[0][:2], prompts[1]]), range(2), strict=True):
            cache.start(row, prefix)
        positions = torch.tensor([[1, 2], [2, 3]], device=model.device)
        tokens = torch.stack([ids[0, 1:], ids[1, 2].expand(2)])
        found, read = forward(tokens, positions, positions, 4, cache)
        pairs = [(found[0, 0], expected[0, 1]), (found[0, 1], expected[0, 2]), (found[1, 0], expected[1, 2])]
        if forward.policy is not None:
            of_heads = forward.policy.unembed(forward.policy.head_states(ids)[1:, :, 2]).transpose(0, 1)
            pairs.append((forward.drafts(read, torch.tensor([1, 0], device=model.device), cache), of_heads.float()))
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError, NotImplementedError):
        return False
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.1
    close = [((a.float() - b).abs() <= tolerance * (b.abs().max() + b.abs())).all() for a, b in pairs]
    return bool(torch.stack(close).all())  # one wait for the device


def over_slots(model: PreTrainedModel, drafts: bool) -> Forward | None:
    """The leanest pass that computes what the model does; None if the model does not compute over slots."""
    ways = (Forward(model, drafts, modules) for modules in (False, True))
    return next((forward for forward in ways if takes_slots(forward)), None)
