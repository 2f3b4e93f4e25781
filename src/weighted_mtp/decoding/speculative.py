"""Decoding in which a policy drafts with its further heads and verifies with its first, several tokens a pass.

Legend: R rows in progress, n = H tokens a pass takes of each (H heads), p a position.

A pass takes a row's newest token, which is certain, and the H − 1 drafts that follow it. Head 1 says behind each of
them which token is right; the drafts are accepted up to the first that is another, and head 1's token there is the new
certain one: between 1 and H tokens a pass. In the same pass the further heads have read the same trunk states, so at
the last accepted position p head k has what it makes of token p + k: drafts 2 … H of the next pass (Stern et al. 2018,
arXiv 1811.03115, §4, "combined scoring and proposal"; Gloeckle et al. 2024, arXiv 2404.19737, §3.2).

Every head is a decoder layer on the trunk's output and attends to its own keys and values of all tokens before. So all
heads read all tokens of a pass, and each keeps a cache. What was written for a draft that is not accepted lies in
slots beyond the row's length, which the next pass writes again before anything reads them.

Where drafting is the default and not asked for, heads stop drafting for the rest of a unit when the passes so far have
made too few tokens certain to be faster than plain ones. Tokens are counted and nothing is timed, so that a unit is
decoded alike every time.

**The output is that of decoding token by token.** Token j of a row is f(p_j, u_j): p_j is head 1's distribution behind
the tokens before j, u_j the uniform number of (seed, prompt, sample, j), and f inverts the cumulative distribution
(greedy decoding takes the likeliest token instead). Let tokens before j be those of plain decoding. Behind accepted
drafts, which are equal to them, head 1's distribution is p_j, so what is emitted at j is f(p_j, u_j), the plain token;
by induction over j all are, whatever the drafts were. In particular the output has plain decoding's distribution. What
remains is rounding, which depends on the shape of a pass and decides only between tokens that are equal but for it.

Leviathan et al. (arXiv 2211.17192, theorem 3.5) instead draw x from the draft's distribution q and accept it with
probability min(1, p(x) / q(x)): the right distribution as well, and no scheme accepts more often, but other completions
with every change of what drafts. Here drafts cost no reproducibility. A draft is f(q_j, u_j) with the same number, so
that it is right wherever the two distributions' intervals overlap.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weighted_mtp.decoding.forward import Forward
from weighted_mtp.decoding.rows import Choice, Finished, Pass, Row, Text
from weighted_mtp.decoding.shared_prompts import Prefix, SharedPrompts
from weighted_mtp.decoding.slots import SlotCache
from weighted_mtp.runtime.device import widest

_PAYS = 1.5  # tokens a pass of a row from which drafts gain: where measured, one with drafts costs 1.2 to 1.5 without
_TRIED = 16, 64  # passes, and passes of a row, after which that is known
_SHARED_BY, _SHARED_LENGTH = 4, 64  # rows of a prompt, and its tokens, on average, from which on they share it


@torch.inference_mode()
def decode(
    forward: Forward, rows: Sequence[Row], size: int, choice: Choice, text: Text, may_stop: bool = False
) -> Iterator[tuple[Row, Finished]]:
    """Complete all rows, `size` of them at a time; yield each when it is finished. The next one takes its place.

    may_stop  whether heads stop drafting when too few of their drafts are right to be faster

    Which rows are in progress together depends on the model, the rows and `size` alone, and so does every bit.
    """
    forward = copy(forward)  # which stops drafting for these rows alone
    waiting = _Waiting(forward, rows, prompts_at_once=max(1, size // 4))
    window = _Window(forward, min(size, len(rows)), choice, _shares(forward, rows), may_stop)
    for _ in range(min(size, len(rows))):
        window.start(len(window.rows), *waiting.next())
    while window.rows:
        finished = text.extend(window.rows, window.advance())
        for place in reversed([i for i, reason in enumerate(finished) if reason is not None]):
            yield window.rows[place], finished[place]  # type: ignore[misc]
            if waiting.rows:
                window.start(place, *waiting.next())
            else:
                window.drop(place)


def _shares(forward: Forward, rows: Sequence[Row]) -> bool:
    """Whether rows share their prompts' keys and values: where that spares more than it costs."""
    lengths = {row.prompt: len(row.prompt_ids) for row in rows}
    if not forward.shares_prompts or min(lengths.values()) == 1:  # a prompt's last token is not shared
        return False
    return len(rows) >= _SHARED_BY * len(lengths) and sum(lengths.values()) >= _SHARED_LENGTH * len(lengths)


class _Waiting:
    """Rows that have not begun. Their prompts are read several at a time; samples of one prompt share that."""

    def __init__(self, forward: Forward, rows: Sequence[Row], prompts_at_once: int) -> None:
        self.rows = deque(rows)
        self._forward = forward
        self._prompts_at_once = prompts_at_once
        self._read: dict[int, Prefix] = {}  # of prompts that come next

    def next(self) -> tuple[Row, Prefix]:
        row = self.rows.popleft()
        if row.prompt not in self._read:
            self._read = dict(self._read_prompts([row, *self.rows]))
        return row, self._read[row.prompt]

    def _read_prompts(self, rows: Sequence[Row]) -> Iterator[tuple[int, Prefix]]:
        prompts: dict[int, list[int]] = {}
        for row in rows:
            if row.prompt not in prompts and len(prompts) == self._prompts_at_once:
                break
            prompts[row.prompt] = row.prompt_ids
        return zip(prompts, self._forward.prefill(list(prompts.values())), strict=True)


class _Window:
    """The rows in progress: in the cache the first R rows, in this order."""

    def __init__(self, forward: Forward, size: int, choice: Choice, shares: bool, may_stop: bool) -> None:
        self.rows: list[Row] = []
        self._ids: list[list[int]] = []  # of each row, its newest token and the drafts
        self._forward = forward
        self._choice = choice
        self._cache = SlotCache(size, SharedPrompts() if shares else None)
        self._device = forward.model.device
        self._steps = torch.arange(self._n, device=self._device)
        self._may_stop = may_stop
        self._passes, self._row_passes, self._tokens = 0, 0, 0

    @property
    def _n(self) -> int:
        """Tokens that a pass takes of each row."""
        return self._forward.n_drafts + 1

    def start(self, place: int, row: Row, prefix: Prefix) -> None:
        """Put a row where another was, or behind the others."""
        self._cache.start(place, prefix)
        ids = [row.prompt_ids[-1], *self._first_drafts(row, prefix)]
        self.rows[place : place + 1] = [row]
        self._ids[place : place + 1] = [ids]

    def drop(self, place: int) -> None:
        """Take a row out; the last one moves to its place."""
        row, ids = self.rows.pop(), self._ids.pop()
        if place < len(self.rows):
            self._cache.move(len(self.rows), place, self._in_slots(row))
            self.rows[place], self._ids[place] = row, ids

    def advance(self) -> list[list[int]]:
        """One pass; the tokens of each row that it made certain, from 1 to n."""
        before, free = [_read(row) for row in self.rows], [self._in_slots(row) for row in self.rows]
        positions, slots = torch.tensor([before, free], device=self._device)[:, :, None] + self._steps[: self._n]
        ids = torch.tensor(self._ids, device=self._device)
        draws = self._draws(self.rows, 2 * self._n - 1)
        logits, read = self._forward(ids, positions, slots, max(free) + self._n, self._cache)
        right = self._choice(logits, None if draws is None else draws[:, : self._n])
        if self._n == 1:
            found, drafts = right.tolist(), [list[int]()] * len(self.rows)
        else:
            accepted = (right[:, :-1] == ids[:, 1:]).cumprod(dim=1).sum(dim=1)
            drafted = self._drafted(read, accepted, draws)
            both = torch.cat([right, drafted], dim=1).tolist()
            found, drafts = [row[: self._n] for row in both], [row[self._n :] for row in both]
        new = [self._accept(place, found[place], drafts[place]) for place in range(len(self.rows))]
        if self._may_stop and self._n > 1:
            self._stop_if_slower(new)
        return new

    def _stop_if_slower(self, new: Sequence[Sequence[int]]) -> None:
        """Draft no longer if passes so far, of which the last made these tokens certain, gave too few."""
        self._passes += 1
        self._row_passes += len(new)
        self._tokens += sum(map(len, new))
        known = self._passes >= _TRIED[0] and self._row_passes >= _TRIED[1]
        if known and self._tokens < _PAYS * self._row_passes:
            self._forward.stop_drafting()
            self._ids = [ids[:1] for ids in self._ids]

    def _in_slots(self, row: Row) -> int:
        """How many of the tokens that have been read lie in the row's own slots."""
        return _read(row) if self._cache.shared is None else len(row.tokens)

    def _accept(self, place: int, right: list[int], drafts: list[int]) -> list[int]:
        """What a row has now, and what it goes on with."""
        proposed = self._ids[place][1:]
        accepted = next((i for i, draft in enumerate(proposed) if draft != right[i]), len(proposed))
        self._ids[place] = [right[accepted], *drafts]
        self.rows[place].n_passes += 1
        if proposed:
            self.rows[place].drafted.append(Pass(tuple(proposed), tuple(right[: accepted + 1])))
        return right[: accepted + 1]

    def _drafted(self, read: Any, accepted: Tensor, draws: Tensor | None) -> Tensor:
        """Drafts (R, H − 1) behind each row's last accepted token, from what a pass left."""
        logits = self._forward.drafts(read, accepted, self._cache)
        if draws is not None:
            ahead = accepted[:, None] + torch.arange(1, self._n, device=accepted.device)
            draws = draws.gather(1, ahead)
        return self._choice(logits, draws).clamp(min=0)

    def _first_drafts(self, row: Row, prefix: Prefix) -> list[int]:
        if prefix.drafting is None or self._n == 1:
            return [0] * (self._n - 1)
        draws = self._draws([row], self._n - 1)
        return self._choice(prefix.drafting, None if draws is None else draws[0]).clamp(min=0).tolist()

    def _draws(self, rows: Sequence[Row], count: int) -> Tensor | None:
        """The next `count` uniform numbers of each row, zeros beyond its budget; None for greedy."""
        if self._choice.temperature == 0:
            return None
        found = np.zeros((len(rows), count))
        for place, row in enumerate(rows):
            assert row.draws is not None
            coming = row.draws[len(row.tokens) : len(row.tokens) + count]
            found[place, : len(coming)] = coming
        return torch.from_numpy(found).to(widest(self._device)).to(self._device)


def _read(row: Row) -> int:
    """Tokens that have been read: all but the newest, which is read next."""
    return len(row.prompt_ids) + len(row.tokens) - 1
