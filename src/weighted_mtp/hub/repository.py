"""What the hub says of a repository: its revision, its files with their digests, its licence."""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Literal, final

import httpx2
from huggingface_hub import HfApi, constants, get_token, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.hf_api import DatasetInfo, ModelInfo, RepoSibling
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from weighted_mtp.errors import first_line
from weighted_mtp.hub.retry import HubError, Patience
from weighted_mtp.progress import say

RepositoryKind = Literal["model", "dataset"]

_DIGEST = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
_SAFE_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_PICKLED_WEIGHTS = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")
_WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf", ".ot"}


@dataclass(frozen=True)
class File:
    """A file as the hub lists it; `digest` is SHA-256 if the hub stores it as LFS, else git's SHA-1 of a blob."""

    name: str
    size: int
    digest: str

    def is_whole(self, path: Path) -> bool:
        if path.stat().st_size != self.size:
            return False
        digest = hashlib.sha256() if len(self.digest) == 64 else hashlib.sha1(b"blob %d\0" % self.size)
        with path.open("rb") as content:
            return hashlib.file_digest(content, lambda: digest).hexdigest() == self.digest


@dataclass(frozen=True)
class Listing:
    """All files of a revision; `name` is the repository's, kind included."""

    name: str
    revision: str
    files: tuple[File, ...]


@final
class Repository:
    """One repository on the hub that HF_ENDPOINT names at this moment."""

    def __init__(self, repo_id: str, kind: RepositoryKind) -> None:
        self.id, self.kind, self.licence = repo_id, kind, ""
        self._token: Literal[False] | None = None  # None: the user's, if there is one
        self.endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        self.name = f"{kind}s/{repo_id}"
        self.page = f"{self.endpoint}/{repo_id if kind == 'model' else self.name}"

    def listing(self, patient: bool) -> Listing:
        """Ask for the list of files: more than once only if `patient`, and only if somebody is there."""
        patience = Patience()
        while True:
            try:
                return self._with_or_without_token()
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                raise
            except httpx2.HTTPError as error:
                if not patient:
                    raise
                patience.wait(error)

    def headers(self) -> dict[str, str]:
        """Headers of every request: who sends it."""
        return build_hf_headers(token=self._token)

    def _with_or_without_token(self) -> Listing:
        """A hub refuses a token that it does not know even for what is public; what is public needs none."""
        try:
            return self._ask()
        except HfHubHTTPError as refused:
            if refused.response.status_code != 401 or self._token is False or not get_token():
                raise
            self._token = False
            try:
                listing = self._ask()
            except HfHubHTTPError:
                raise refused from None
            say(f"{self.id}: the hub does not accept the token (401); it is public, and fetched without one")
            return listing

    def _ask(self) -> Listing:
        api, seconds = HfApi(endpoint=self.endpoint, token=self._token), constants.HF_HUB_DOWNLOAD_TIMEOUT
        info: ModelInfo | DatasetInfo
        try:
            if self.kind == "model":
                info = api.model_info(self.id, files_metadata=True, timeout=seconds)
            else:
                info = api.dataset_info(self.id, files_metadata=True, timeout=seconds)
            revision, files = _digest(info.sha), tuple(_file(sibling) for sibling in info.siblings or ())
        except (HfHubHTTPError, HFValidationError):
            raise
        except (ValueError, TypeError, KeyError) as error:
            raise HubError(
                f"what answers at {self.endpoint} is no model hub ({first_line(error)}); check HF_ENDPOINT and proxies"
            ) from error
        if card := info.card_data:
            self.licence = str(card.get("license_name") or card.get("license") or "")
        return Listing(self.name, revision, files)

    def url(self, name: str, revision: str) -> str:
        return hf_hub_url(self.id, name, repo_type=self.kind, revision=revision, endpoint=self.endpoint)


def _file(sibling: RepoSibling) -> File:
    """Raises ValueError for a name outside the repository and where size or digest is missing."""
    path = PurePosixPath(sibling.rfilename)
    if path.is_absolute() or ".." in path.parts or sibling.size is None:
        raise ValueError(f"file {sibling.rfilename!r} of size {sibling.size}")
    return File(sibling.rfilename, sibling.size, _digest(sibling.lfs.sha256 if sibling.lfs else sibling.blob_id))


def _digest(text: str | None) -> str:
    if not _DIGEST.fullmatch(text or ""):
        raise ValueError(f"digest {text!r}")
    return str(text)


def select(names: Sequence[str], patterns: Sequence[str] | None, kind: RepositoryKind) -> set[str]:
    """The names that are wanted: see `fetch`."""
    if patterns is not None:
        return {name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)}
    return set(names if kind == "dataset" else _loadable(names))


def _loadable(names: Sequence[str]) -> list[str]:
    """What transformers reads of a model's repository, and its texts; nothing if there are no weights to read."""
    root = [name for name in names if "/" not in name]
    weights = [n for n in root if _SAFE_WEIGHTS.fullmatch(n)] or [n for n in root if _PICKLED_WEIGHTS.fullmatch(n)]
    return [n for n in root if PurePosixPath(n).suffix not in _WEIGHT_SUFFIXES] + weights if weights else []
