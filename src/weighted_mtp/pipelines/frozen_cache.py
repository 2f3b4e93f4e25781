"""What frozen models return, kept on disk: in a second epoch neither critic nor reference is run again.

A row's values are kept under a digest of its token ids, of where its response lies, and of everything that they are
computed by: weights and options of the model, precision, device type, and the options that decide which rows share a
microbatch, since these change the rounding. So a value that is found has the bits that this run computed when it met
the row first, and another model, text or option finds nothing.

A microbatch is computed as it would be without a cache, or, if every rank's rows are all known, not at all: ranks that
share a frozen model must run it equally often. Only the first rank opens the file.
"""

import hashlib
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from weighted_mtp.data.batches import Batch
from weighted_mtp.errors import UserError
from weighted_mtp.progress import say
from weighted_mtp.runtime.distributed import all_gather_objects, by_first_rank, rank
from weighted_mtp.section import Section
from weighted_mtp.value_weighting.td import ValueFunction

_DELETED_AT_ONCE = 10  # a tenth, when the file is full
_ROUNDING = 2 * 4096  # bytes at most that a row takes more, in whole pages
_WAIT_SECONDS = 60.0  # for another run that writes


class FrozenCacheConfig(Section):
    """Where to keep what the critic or the reference returns, so that later epochs, validations and runs with the same
    data and seed need not run it again."""

    file: Path = Path("storage/frozen_outputs.sqlite")
    """The file, which runs may share."""
    max_gb: float = Field(4.0, gt=0)
    """Its greatest size; the oldest values are deleted for new ones. A token takes 4 bytes, a row some 60 more."""


def kept(values: ValueFunction, config: FrozenCacheConfig, made_by: str) -> ValueFunction:
    """`values` with what it returns kept in a file, and 0 on padding.

    made_by  a digest of all that the values depend on beside the tokens

    Raises UserError if the file cannot be opened.
    """
    opened: list[_Store] = []
    by_first_rank(lambda: opened.append(_Store(config)))
    return _Kept(values, opened, made_by)


class _Kept:
    def __init__(self, values: ValueFunction, opened: Sequence["_Store"], made_by: str) -> None:
        """
        opened  the file on the first rank, nothing on the others
        """
        self.values, self.opened, self.made_by = values, opened, made_by.encode()

    def __call__(self, batch: Batch) -> Tensor:
        ends = {row: span.end for row, span in enumerate(batch.spans) if span.end}  # rows of a response
        keys = self._keys(batch, ends)
        known, complete = self._known(keys)
        found = torch.zeros(batch.input_ids.shape) if complete else self.values(batch).float().cpu()
        new = []
        for (row, end), key, stored in zip(ends.items(), keys, known, strict=True):
            if stored is None:
                new.append((key, found[row, :end].numpy().astype("<f4").tobytes()))
            else:
                found[row, :end] = torch.from_numpy(np.frombuffer(stored, "<f4").astype(np.float32))
        if not complete:
            everyones = all_gather_objects(new)
            for store in self.opened:
                store.put([entry for of_rank in everyones for entry in of_rank])
        return found.to(batch.input_ids.device)

    def _keys(self, batch: Batch, ends: Mapping[int, int]) -> list[bytes]:
        """Digests of what decides rows' values; attention is causal, so nothing behind a response does."""
        ids = batch.input_ids.cpu().numpy()
        texts = [b"%d:" % batch.spans[row].start + ids[row, :end].tobytes() for row, end in ends.items()]
        return [hashlib.blake2b(self.made_by + text, digest_size=16).digest() for text in texts]

    def _known(self, keys: list[bytes]) -> tuple[list[bytes | None], bool]:
        """What is kept of this rank's rows, and whether all of every rank's are."""
        everyones = all_gather_objects(keys)
        known = by_first_rank(lambda: [self.opened[0].get(of_rank) for of_rank in everyones])
        return known[rank()], all(stored is not None for of_rank in known for stored in of_rank)


class _Store:
    """Bytes by key in one SQLite file, each with a checksum: what a crash or a bad disk left counts as absent."""

    def __init__(self, config: FrozenCacheConfig) -> None:
        self.file, self.max_bytes = config.file, config.max_gb * 1e9
        self.off, self.has_deleted = False, False
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self._open():
                pass
        except (OSError, sqlite3.OperationalError) as error:
            raise UserError(f"frozen_cache.file={self.file}: cannot be opened ({error}); name another file") from error
        except sqlite3.DatabaseError as error:
            self._give_up(error)

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """What is stored under each key; None if nothing is, or if it is damaged."""
        query = "SELECT stored FROM outputs WHERE key = ?"
        try:
            if not self.off:
                with self._open() as database:
                    return [_undamaged(database.execute(query, [key]).fetchone()) for key in keys]
        except sqlite3.DatabaseError as error:
            self._give_up(error)
        return [None] * len(keys)

    def put(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        """Store values, all of them or none."""
        if self.off:
            return
        try:
            with self._open() as database:
                database.execute("BEGIN IMMEDIATE")
                self._make_room(database, sum(len(stored) + _ROUNDING for _, stored in entries))
                rows = [(key, _checksum(stored) + stored) for key, stored in entries]
                database.executemany("INSERT OR REPLACE INTO outputs VALUES (?, ?)", rows)
                database.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            self._give_up(error)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.file, timeout=_WAIT_SECONDS, isolation_level=None)) as database:
            database.execute("PRAGMA synchronous = OFF")  # a power cut may cost the cache, never a wrong value
            database.execute("CREATE TABLE IF NOT EXISTS outputs (key BLOB UNIQUE, stored BLOB)")
            yield database

    def _make_room(self, database: sqlite3.Connection, size: int) -> None:
        """Delete the oldest rows until `size` more bytes fit."""
        while _used(database) + size > self.max_bytes:
            first, last = database.execute("SELECT min(rowid), max(rowid) FROM outputs").fetchone()
            if first is None:
                return
            database.execute("DELETE FROM outputs WHERE rowid <= ?", [first + (last - first) // _DELETED_AT_ONCE])
            if not self.has_deleted:
                self.has_deleted = True
                say(
                    f"{self.file}: full, so its oldest values are deleted; if one run's do not fit, nothing is gained: "
                    "raise frozen_cache.max_gb"
                )

    def _give_up(self, error: sqlite3.DatabaseError) -> None:
        """Start a damaged file over; leave alone one that cannot be used, on a full disk or so."""
        if isinstance(error, sqlite3.OperationalError):
            self.off = True
            say(f"{self.file}: cannot be used any more ({error}); computing without")
            return
        say(f"{self.file}: damaged ({error}); started over")
        self.file.unlink(missing_ok=True)
        self.file.with_name(f"{self.file.name}-journal").unlink(missing_ok=True)


def _used(database: sqlite3.Connection) -> int:
    """Bytes of the pages in use."""
    pragmas = ("page_count", "freelist_count", "page_size")
    pages, free, size = (database.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas)
    return (pages - free) * size


def _checksum(stored: bytes) -> bytes:
    return zlib.crc32(stored).to_bytes(4, "little")


def _undamaged(row: tuple[bytes] | None) -> bytes | None:
    """What was stored, if it is as it was."""
    if row is None or _checksum(row[0][4:]) != row[0][:4]:
        return None
    return row[0][4:]
