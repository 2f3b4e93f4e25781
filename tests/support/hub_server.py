"""A model hub on loopback: speaks as much of the real one's protocol as its client needs, and fails when told to.

    python tests/hub_server.py FOLDER      # FOLDER/{models,datasets}/OWNER/NAME/files
    HF_ENDPOINT=http://127.0.0.1:8000 uv run wmtp …

As on the real hub, large files (here: by their suffix) are LFS files, listed with SHA-256 and served by redirect from
another origin, which must not be shown the token. Other files have git's SHA-1.
"""

import argparse
import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from huggingface_hub import metadata_load

LFS_SUFFIXES = {".safetensors", ".bin", ".pth", ".parquet", ".gz", ".gguf", ".model"}
KINDS = {"models": "", "datasets": "datasets/"}  # in the paths of files
API = re.compile(r"/api/(?P<kind>models|datasets)/(?P<id>[^/]+/[^/]+)(/(?P<view>revision|tree)/(?P<revision>[^/?]+))?")
FILE = re.compile(r"/(?P<kind>datasets/)?(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")
GATED = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted."}
BAD_TOKEN = {"X-Error-Message": "Invalid credentials in Authorization header"}


@dataclass
class Fault:
    """What happens instead of an answer, `times` times, to requests whose method and path contain a match of `where`.

    status           it is answered, with `headers` and `body`
    cut, reset       so many bytes of a file are sent, then the connection is closed, or reset
    short            so many bytes of a file are sent, as if they were all
    surplus          so many bytes more than a file has are sent
    corrupt          a byte of a file is another
    no_range         the whole file is sent whatever is asked for
    silent           nothing is ever answered; with `cut`, nothing more
    """

    where: str
    times: int = 1_000_000
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b'{"error": "a fault"}'
    cut: int = -1
    reset: bool = False
    short: int = -1
    surplus: int = 0
    corrupt: bool = False
    no_range: bool = False
    silent: bool = False


NONE = Fault("")


@dataclass(frozen=True)
class Request:
    """One that the server saw."""

    method: str
    path: str
    range: str | None
    token: str | None


@dataclass(frozen=True)
class Stored:
    """A file of a repository."""

    name: str
    data: bytes

    @property
    def is_lfs(self) -> bool:
        return Path(self.name).suffix in LFS_SUFFIXES

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def blob(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.blob


class HubServer(ThreadingHTTPServer):
    """Serves a folder of repositories from a thread while it is a context; `requests` is what it saw."""

    daemon_threads = True

    def __init__(self, root: Path, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.root, self.requests, self.faults = root, list[Request](), list[Fault]()
        self.closing = threading.Event()
        self.endpoint, self.cdn = (f"http://{host}:{self.server_port}" for host in ("127.0.0.1", "localhost"))

    def fault(self, where: str, **what: Any) -> None:
        self.faults.append(Fault(where, **what))

    def next_fault(self, request: str) -> Fault:
        for fault in self.faults:
            if fault.times > 0 and re.search(fault.where, request):
                fault.times -= 1
                return fault
        return NONE

    def seen(self, where: str) -> list[Request]:
        return [request for request in self.requests if re.search(where, f"{request.method} {request.path}")]

    def files(self, kind: str, repo_id: str) -> list[Stored] | None:
        folder = self.root / kind / repo_id
        if not folder.is_dir():
            return None
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        return [Stored(name, (folder / name).read_bytes()) for name in names]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may go away: they are killed in tests."""

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()


def commit(files: list[Stored]) -> str:
    return hashlib.sha1("".join(f"{file.name} {file.blob}\n" for file in files).encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or every answer waits 40 ms for an acknowledgement
    server: HubServer

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(
            Request(self.command, path, self.headers.get("Range"), self.headers.get("Authorization"))
        )
        fault = self.server.next_fault(f"{self.command} {path}")
        if fault.silent and fault.cut < 0:
            self.server.closing.wait()
            self.close_connection = True
        elif fault.status:
            self.answer(fault.status, fault.body, fault.headers)
        elif path.startswith("/cdn/"):
            self.send_content(*self.stored(path.removeprefix("/cdn/")), fault)
        elif match := API.fullmatch(path):
            self.describe(**match.groupdict())
        elif match := FILE.fullmatch(path):
            self.resolve(fault, **match.groupdict())
        else:
            self.answer(404, b"")

    do_HEAD = do_GET

    def describe(self, kind: str, id: str, view: str | None, revision: str | None) -> None:
        files = self.server.files(kind, id)
        if files is None:
            self.answer(401, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif revision not in (None, "main", commit(files)):
            self.answer(404, b"", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        else:
            about = list(tree(files)) if view == "tree" else self.info(kind, id, files)
            self.answer(200, json.dumps(about).encode(), {"Content-Type": "application/json"})

    def info(self, kind: str, id: str, files: list[Stored]) -> dict[str, Any]:
        card = self.server.root / kind / id / "README.md"
        siblings = []
        for file in files:
            lfs = {"lfs": {"size": len(file.data), "sha256": file.sha256, "pointerSize": 134}} if file.is_lfs else {}
            siblings.append({"rfilename": file.name, "size": len(file.data), "blobId": file.blob, **lfs})
        data = metadata_load(card) if card.exists() else None
        return {"id": id, "sha": commit(files), "private": False, "cardData": data or {}, "siblings": siblings}

    def resolve(self, fault: Fault, kind: str | None, id: str, revision: str, name: str) -> None:
        folder = "datasets" if kind else "models"
        files = self.server.files(folder, id)
        file = next((file for file in files or () if file.name == name), None)
        if files is None:
            self.answer(401, b"", {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", commit(files)):
            self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif file is None:
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit(files)})
        elif file.is_lfs:
            self.answer(302, b"", {"Location": f"{self.server.cdn}/cdn/{folder}/{id}/{name}", **linked(file, files)})
        else:
            self.send_content(file, linked(file, files), fault)

    def stored(self, path: str) -> tuple[Stored, dict[str, str]]:
        kind, owner, name, file = path.split("/", 3)
        return next(f for f in self.server.files(kind, f"{owner}/{name}") or () if f.name == file), {}

    def send_content(self, file: Stored, headers: dict[str, str], fault: Fault) -> None:
        size, start = len(file.data), 0
        data = (file.data[: fault.short] if fault.short >= 0 else file.data) + bytes(fault.surplus)
        if fault.corrupt:
            data = data[:-1] + bytes([data[-1] ^ 1])
        if (wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))) and not fault.no_range:
            start = int(wanted[1])
            if start >= size:
                self.answer(416, b"", {"Content-Range": f"bytes */{size}"})
                return
            headers = {**headers, "Content-Range": f"bytes {start}-{size - 1}/{size}"}
        headers = {**headers, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
        self.answer(206 if start else 200, data[start:], headers, fault)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, fault: Fault = NONE) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault.cut < 0:
            self.wfile.write(body)
            return
        self.wfile.write(body[: fault.cut])
        self.wfile.flush()
        if fault.silent:
            self.server.closing.wait()
        if fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def linked(file: Stored, files: list[Stored]) -> dict[str, str]:
    """What the hub says of a file whoever serves it."""
    headers = {"X-Repo-Commit": commit(files), "ETag": f'"{file.etag}"'}
    return {**headers, "X-Linked-Size": str(len(file.data)), "X-Linked-Etag": f'"{file.etag}"'}


def tree(files: list[Stored]) -> Iterator[dict[str, Any]]:
    for folder in sorted({parent.as_posix() for file in files for parent in Path(file.name).parents} - {"."}):
        yield {"type": "directory", "oid": "0" * 40, "size": 0, "path": folder}
    for file in files:
        lfs = {"lfs": {"oid": file.sha256, "size": len(file.data), "pointerSize": 134}} if file.is_lfs else {}
        yield {"type": "file", "oid": file.blob, "size": len(file.data), "path": file.name, **lfs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    server = HubServer(options.folder, options.port)
    print(f"HF_ENDPOINT={server.endpoint}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
