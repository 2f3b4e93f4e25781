"""Files of a repository on a model hub, brought to this disk: broken downloads resumed, every file checked.

The hub's own client (huggingface_hub) sends requests, authenticates, streams and words its refusals as exceptions. What
is ours is what its `snapshot_download` does not do: it drops what a broken download had, waits without a limit for an
answer or for as long as a server asks, and checks only sizes.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
from filelock import Timeout
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

from weighted_mtp.hub.destinations import Cache, Fetched, FetchRecord, Folder, Place
from weighted_mtp.hub.errors import cause, in_one_line
from weighted_mtp.hub.repository import Listing, Repository, RepositoryKind, select
from weighted_mtp.hub.retry import HubError, may_pass
from weighted_mtp.hub.token import read_token
from weighted_mtp.hub.transfer import download
from weighted_mtp.progress import say

__all__ = ["Fetched", "fetch", "fetched_revision"]


def fetch(
    repo_id: str, kind: RepositoryKind, *, patterns: Sequence[str] | None = None, to: Path | None = None, instead: str
) -> Fetched:
    """Bring files of a hub repository's main revision to this disk, and check each against what the hub says of it.

    patterns  shell patterns of the names wanted, folders included; None for a whole dataset, and of a model for what
              loading it needs: its root, with weights in one format
    to        folder to put them in; None for the hub's own cache
    instead   what serves in place of the hub: the end of every message

    The same command resumes where a broken or killed download stopped; what is there already is not fetched again; a
    complete local copy serves if the hub cannot be reached. Reads HF_ENDPOINT, HF_HUB_OFFLINE, and HF_TOKEN, which
    `.env` in the current folder may hold, too.

    Raises UserError, one line, for everything that the network, the hub, the token and the disk can do to it.
    """
    read_token(Path(".env"))
    repository = Repository(repo_id, kind)
    place = Folder(repository, to) if to else Cache(repository)
    with in_one_line(repository, instead):
        copy = place.copy(patterns)
        try:
            listing = repository.listing(patient=copy is None)
        except (httpx2.HTTPError, OfflineModeIsEnabled, HubError) as error:
            if copy is None or (isinstance(error, HfHubHTTPError) and not may_pass(error)):
                raise
            say(f"{repo_id}: {cause(error, repository)}; the local copy serves, revision {copy.revision}")
            return copy
        return _bring(repository, listing, patterns, place)


def fetched_revision(folder: Path) -> str:
    """The commit of what `fetch` put into a folder; "" if it put nothing."""
    record = FetchRecord.read(folder)
    return record.listing.revision if record else ""


def _bring(repository: Repository, listing: Listing, patterns: Sequence[str] | None, place: Place) -> Fetched:
    names = select([file.name for file in listing.files], patterns, repository.kind)
    if not names:
        missing = f"a file matching {', '.join(patterns)}" if patterns else "weights that can be loaded"
        raise HubError(f"{repository.page} has nothing of what is wanted: {missing}")
    folder = place.begin(listing)
    wanted = [file for file in listing.files if file.name in names]
    if missing_files := [file for file in wanted if not place.holds(file)]:
        place.work.mkdir(parents=True, exist_ok=True)
        with _alone(place.work / "lock"):
            download(repository, listing.revision, missing_files, place)
            place.finish(listing, names)  # under the lock: two who note it at once would move each other's file away
    else:
        place.finish(listing, names)
    return Fetched(folder, listing.revision)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Two processes that append to one file would spoil it; the ranks of a run fetch the same files at once."""
    with ExitStack() as stack:
        try:
            stack.enter_context(WeakFileLock(lock, timeout=1.0))
        except Timeout:
            say(f"another process is fetching the same; waiting for it (its lock is {lock})")
            stack.enter_context(WeakFileLock(lock))
        yield
