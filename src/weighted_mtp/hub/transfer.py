"""Downloading: from where the last attempt stopped, with bounded patience, checked by digest."""

import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import final

import httpx2
from huggingface_hub import constants, get_session, hf_raise_for_status

from weighted_mtp.hub.destinations import Place
from weighted_mtp.hub.repository import File, Repository
from weighted_mtp.hub.retry import HubError, Patience
from weighted_mtp.progress import Advance, progress

NEW_START = 2**20  # bytes after which a connection counts as a good one and the attempts are counted from 0 again

_MB = 1_000_000


def download(repository: Repository, revision: str, files: Sequence[File], place: Place) -> None:
    files = [file for file in files if not place.holds(file)]  # another process may have brought them meanwhile
    parts = {file: place.work / f"{file.digest}.part" for file in files}
    here = sum(part.stat().st_size for part in set(parts.values()) if part.exists())
    total = sum(file.size for file in files)
    lacking, free = total - here, shutil.disk_usage(place.work).free
    if lacking > free:
        raise HubError(
            f"needs {lacking / _MB:,.1f} MB in {place.work.parent}, which has {free / _MB:,.1f} MB free; make room"
        )
    with progress(f"downloading {repository.id} (MB)", math.ceil(total / _MB), math.ceil(here / _MB)) as advance:
        count = _Count(advance, here)
        for file, part in parts.items():
            count.note = file.name
            _download(repository, revision, file, part, count)
            place.take(file, part)
    for left_over in place.work.glob("*.part"):
        left_over.unlink()


@final
class _Count:
    """Bytes here, shown in whole megabytes."""

    def __init__(self, advance: Advance, here: int) -> None:
        self.advance, self.bytes, self.note = advance, here, ""

    def add(self, n: int) -> None:
        before = math.ceil(self.bytes / _MB)
        self.bytes += n
        if now := math.ceil(self.bytes / _MB) - before:
            self.advance(now, self.note)


def _download(repository: Repository, revision: str, file: File, part: Path, count: _Count) -> None:
    """Fill `part` up to a file with the right digest; one that is damaged is fetched a second time."""
    part.touch()
    for _ in range(2):
        _receive(repository, revision, file, part, count)
        if file.is_whole(part):
            return
        count.add(-part.stat().st_size)
        os.truncate(part, 0)
    raise HubError(
        f"{file.name} arrived damaged twice, its digest is not the {file.digest[:12]}… that the hub lists;"
        " a proxy may change it: try again or from another network"
    )


def _receive(repository: Repository, revision: str, file: File, part: Path, count: _Count) -> None:
    patience = Patience()
    while (have := part.stat().st_size) < file.size:
        try:
            _stream(repository.url(file.name, revision), repository.headers(), part, have, file.size, count)
            stopped: Exception = HubError(f"{file.name} ends before its {file.size} bytes, again and again")
        except httpx2.HTTPError as error:
            stopped = error
        now = part.stat().st_size
        if now - have >= NEW_START:
            patience = Patience()
        if now < file.size:
            patience.wait(stopped)


def _stream(url: str, who: dict[str, str], part: Path, have: int, size: int, count: _Count) -> None:
    """Append what the hub sends from byte `have` on; every byte is in the file as soon as it is here."""
    headers = {**who, "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    answer = get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
    with answer as response, part.open("ab") as out:
        hf_raise_for_status(response)
        if have and response.status_code == 200:  # the whole file, in spite of the range
            out.truncate(0)
            count.add(-have)
        for chunk in response.iter_bytes():
            out.write(chunk)
            out.flush()
            count.add(len(chunk))
            if out.tell() > size:
                break  # what is longer is another file, if it ends at all
        os.fsync(out.fileno())
