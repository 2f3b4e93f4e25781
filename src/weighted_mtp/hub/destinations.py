"""Where fetched files go: a folder of the user's, or the hub's own cache."""

import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final

from huggingface_hub import constants, get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import CachedRepoTreeNotFoundError, IncompleteSnapshotError, LocalEntryNotFoundError

from weighted_mtp.files import atomic_file
from weighted_mtp.hub.repository import File, Listing, Repository, select

WORK = ".fetch"  # hidden folder of ours beside the files: what is on its way, and what was fetched


@dataclass(frozen=True)
class Fetched:
    """Where the files lie, and the commit of the repository they belong to."""

    folder: Path
    revision: str


class Place(Protocol):
    """Takes the files of one repository in; `work` is where they lie while they are on their way."""

    work: Path

    def copy(self, patterns: Sequence[str] | None) -> Fetched | None:
        """The complete copy that is there from an earlier time."""

    def begin(self, listing: Listing) -> Path:
        """Where this revision's files are going to be."""

    def holds(self, file: File) -> bool:
        """Whether the file is there already, and good."""

    def take(self, file: File, part: Path) -> None:
        """Move a checked file to its name."""

    def finish(self, listing: Listing, names: Collection[str]) -> None:
        """All of `names` are there: note it."""


@dataclass(frozen=True)
class FetchRecord:
    """What `fetch` put into a folder: the listing of that time, and the names of the files that it brought."""

    listing: Listing
    fetched: frozenset[str]

    @classmethod
    def read(cls, folder: Path) -> "FetchRecord | None":
        try:
            record = json.loads((folder / WORK / "record.json").read_text())
            files = tuple(File(name, size, digest) for name, size, digest in record["files"])
            return cls(Listing(record["repository"], record["revision"], files), frozenset(record["fetched"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None  # then the files are judged by their digests

    def write(self, folder: Path) -> None:
        files = [[file.name, file.size, file.digest] for file in self.listing.files]
        record = {"repository": self.listing.name, "revision": self.listing.revision}
        with atomic_file(folder / WORK / "record.json") as partial:
            partial.write_text(json.dumps({**record, "fetched": sorted(self.fetched), "files": files}, indent=1) + "\n")


@final
class Folder:
    """A folder of the user's; `.fetch/record.json` in it says what was fetched."""

    def __init__(self, repository: Repository, root: Path) -> None:
        self.root, self.work, self.kind = root, root / WORK, repository.kind
        record = FetchRecord.read(root)
        self.record = record if record and record.listing.name == repository.name else None
        self.revision = ""

    def copy(self, patterns: Sequence[str] | None) -> Fetched | None:
        if self.record is None:
            return None
        listing = self.record.listing
        names = select([file.name for file in listing.files], patterns, self.kind)
        whole = bool(names) and all(self._has_size(file) for file in listing.files if file.name in names)
        return Fetched(self.root, listing.revision) if whole else None

    def begin(self, listing: Listing) -> Path:
        self.revision = listing.revision
        return self.root

    def holds(self, file: File) -> bool:
        """By its size where we brought it, by its digest where somebody else did."""
        ours = self.record is not None and file.name in self.record.fetched and file in self.record.listing.files
        return self._has_size(file) and (ours or file.is_whole(self.root / file.name))

    def take(self, file: File, part: Path) -> None:
        if self.record and self.record.listing.revision != self.revision:
            (self.work / "record.json").unlink(missing_ok=True)  # until the end the folder is of two revisions
        path = self.root / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        part.replace(path)

    def finish(self, listing: Listing, names: Collection[str]) -> None:
        before = self.record.fetched if self.record else frozenset()
        for name in before - {file.name for file in listing.files}:
            (self.root / name).unlink(missing_ok=True)  # readers would take two revisions for one
        still = {file.name for file in listing.files if file.name in before and self.holds(file)}
        record = FetchRecord(listing, frozenset(still.union(names)))
        if record != self.record:
            record.write(self.root)

    def _has_size(self, file: File) -> bool:
        path = self.root / file.name
        return path.is_file() and path.stat().st_size == file.size


@final
class Cache:
    """The hub's own cache, in its documented layout: `snapshots/<revision>/<name>` → `blobs/<digest>`, `refs/main`.

    huggingface_hub finds what is there but takes no file in that it did not download itself. So that a model fetched
    here is one for `from_pretrained` and the `hf` command, and theirs is not fetched again, the layout is kept here.
    """

    def __init__(self, repository: Repository) -> None:
        self.id, self.kind = repository.id, repository.kind
        self.root = Path(constants.HF_HUB_CACHE) / repository.name.replace("/", "--")
        self.work, self.snapshot = self.root / WORK, self.root

    def copy(self, patterns: Sequence[str] | None) -> Fetched | None:
        """Whoever made it: completeness is judged by the cached listing, or by what is there if none is cached."""
        try:
            folder = Path(snapshot_download(self.id, repo_type=self.kind, local_files_only=True))
        except IncompleteSnapshotError as error:
            folder = Path(error.snapshot_path)
        except LocalEntryNotFoundError:
            return None
        try:
            listed = [file.path for file in get_cached_repo_tree(self.id, repo_type=self.kind)]
        except CachedRepoTreeNotFoundError:
            listed = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        names = select(listed, patterns, self.kind)
        whole = bool(names) and all((folder / name).is_file() for name in names)
        return Fetched(folder, folder.name) if whole else None

    def begin(self, listing: Listing) -> Path:
        self.snapshot = self.root / "snapshots" / listing.revision
        return self.snapshot

    def holds(self, file: File) -> bool:
        """By its size, as blobs are named by digest; a blob of another revision is linked."""
        pointer, blob = self.snapshot / file.name, self._blob(file)
        if not pointer.exists() and blob.exists():
            self._link(file)
        return pointer.is_file() and pointer.stat().st_size == file.size

    def take(self, file: File, part: Path) -> None:
        self._blob(file).parent.mkdir(parents=True, exist_ok=True)
        part.replace(self._blob(file))
        self._link(file)

    def finish(self, listing: Listing, names: Collection[str]) -> None:
        main = self.root / "refs" / "main"
        if not main.exists() or main.read_text() != listing.revision:
            with atomic_file(main) as partial:
                partial.write_text(listing.revision)

    def _blob(self, file: File) -> Path:
        return self.root / "blobs" / file.digest

    def _link(self, file: File) -> None:
        pointer = self.snapshot / file.name
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.unlink(missing_ok=True)
        pointer.symlink_to(os.path.relpath(self._blob(file), pointer.parent))
