"""A model hub on loopback: speaks as much of the real one's protocol as its client needs, and fails when told to.

Repositories are read, made and committed to. Whoever writes needs a token; of those in `readers` none may.

    python tests/hub_server.py FOLDER      # FOLDER/{models,datasets}/OWNER/NAME/files
    HF_ENDPOINT=http://127.0.0.1:8000 uv run wmtp …

As on the real hub, large files (here: by their suffix) are LFS files, listed with SHA-256 and served by redirect from
another origin, which must not be shown the token. Other files have git's SHA-1.
"""

import argparse
import base64
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

import yaml
from huggingface_hub import metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results

LFS_SUFFIXES = {".safetensors", ".bin", ".pth", ".parquet", ".gz", ".gguf", ".model"}
KINDS = {"models": "", "datasets": "datasets/"}  # in the paths of files
API = re.compile(r"/api/(?P<kind>models|datasets)/(?P<id>[^/]+/[^/]+)(/(?P<view>revision|tree)/(?P<revision>[^/?]+))?")
FILE = re.compile(r"/(?P<kind>datasets/)?(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")
WRITE = re.compile(r"/api/(?P<kind>models|datasets)/(?P<id>[^/]+/[^/]+)/(?P<what>preupload|commit)/main")
BATCH = re.compile(r"/(?P<id>[^/]+/[^/]+)\.git/info/lfs/objects/batch")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
GATED = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted."}
NO_SUCH = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
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
        self.private, self.readers, self.messages = set[str](), set[str](), list[str]()
        self.large = dict[str, bytes]()  # uploaded, by SHA-256, before a commit names it
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

    def begin(self) -> tuple[str, Fault]:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(
            Request(self.command, path, self.headers.get("Range"), self.headers.get("Authorization"))
        )
        return path, self.server.next_fault(f"{self.command} {path}")

    def do_GET(self) -> None:
        path, fault = self.begin()
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

    def do_POST(self) -> None:
        path, fault = self.begin()
        body = self.body()
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if fault.status:
            self.answer(fault.status, fault.body, fault.headers)
        elif path == "/api/validate-yaml":
            self.validate(json.loads(body)["content"])
        elif not token:
            self.answer(401, b"", BAD_TOKEN)
        elif token in self.server.readers:
            self.answer(403, b"", {"X-Error-Message": "You don't have the rights to create or change this repository"})
        elif path == "/api/repos/create":
            self.create(json.loads(body))
        elif match := BATCH.fullmatch(path):
            objects = [self.upload_of(wanted) for wanted in json.loads(body)["objects"]]
            self.json(200, {"transfer": "basic", "objects": objects})
        elif (match := WRITE.fullmatch(path)) and match["what"] == "preupload":
            self.preupload(match["kind"], match["id"], json.loads(body)["files"])
        elif match:
            self.commit(match["kind"], match["id"], [json.loads(line) for line in body.splitlines()])
        else:
            self.answer(404, b"")

    def do_PUT(self) -> None:
        """A large file, at the address that `upload_of` gave."""
        path, fault = self.begin()
        data, oid = self.body(), path.rpartition("/")[2]
        if fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
        elif fault.status or hashlib.sha256(data).hexdigest() != oid:
            self.answer(fault.status or 400, fault.body, fault.headers)
        else:
            self.server.large[oid] = data
            self.answer(200, b"")

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def json(self, status: int, value: Any) -> None:
        self.answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def validate(self, card: str) -> None:
        """What the hub checks of a card: licence and base models by their form, results by the form of model-index."""
        try:
            facts = yaml.safe_load(card.split("---\n")[1])
            bases = facts.get("base_model", [])
            wrong = [f'"base_model" {base} is no id' for base in [bases] if base and not HUB_ID.fullmatch(str(base))]
            if not re.fullmatch(r"[a-z0-9.+-]+", facts.get("license", "mit")):
                wrong.append(f'"license" {facts["license"]} is not one of those that the hub knows')
            if "model-index" in facts:
                model_index_to_eval_results(facts["model-index"])
        except (ValueError, KeyError, TypeError, IndexError, yaml.YAMLError) as error:
            wrong = [f"{type(error).__name__}: {error}"]
        warnings = [] if "license" in facts else [{"message": "the card names no licence"}]
        self.json(400 if wrong else 200, {"errors": [{"message": text} for text in wrong], "warnings": warnings})

    def create(self, wanted: dict[str, Any]) -> None:
        repo_id = f"{wanted['organization']}/{wanted['name']}"
        folder = self.server.root / f"{wanted.get('type', 'model')}s" / repo_id
        if folder.exists():
            self.answer(409, b"", {"X-Error-Message": "You already created this model repo"})
            return
        folder.mkdir(parents=True)
        (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
        if wanted.get("visibility") == "private":
            self.server.private.add(repo_id)
        self.json(200, {"url": f"{self.server.endpoint}/{repo_id}"})

    def preupload(self, kind: str, id: str, files: list[dict[str, Any]]) -> None:
        modes = []
        for file in files:
            mode = "lfs" if Path(file["path"]).suffix in LFS_SUFFIXES else "regular"
            modes.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False})
        self.json(200 if self.server.files(kind, id) is not None else 404, {"files": modes})

    def upload_of(self, wanted: dict[str, Any]) -> dict[str, Any]:
        where = {"href": f"{self.server.cdn}/upload/{wanted['oid']}"}
        return {**wanted, **({} if wanted["oid"] in self.server.large else {"actions": {"upload": where}})}

    def commit(self, kind: str, id: str, lines: list[dict[str, Any]]) -> None:
        folder, header = self.server.root / kind / id, lines[0]["value"]
        before = commit(self.server.files(kind, id) or [])
        if header.get("parentCommit", before) != before:
            self.answer(412, b"", {"X-Error-Message": "A commit has happened since. Please refresh and try again."})
            return
        for line in lines[1:]:
            about = line["value"]
            path = folder / about["path"]
            if line["key"] == "deletedFile":
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            is_large = line["key"] == "lfsFile"
            path.write_bytes(self.server.large[about["oid"]] if is_large else base64.b64decode(about["content"]))
        self.server.messages.append(header["summary"])
        now = commit(self.server.files(kind, id) or [])
        self.json(200, {"success": True, "commitOid": now, "commitUrl": f"{self.server.endpoint}/{id}/commit/{now}"})

    def describe(self, kind: str, id: str, view: str | None, revision: str | None) -> None:
        files = self.server.files(kind, id)
        if files is None:
            self.answer(401, b"", NO_SUCH)
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
        return {
            "id": id,
            "sha": commit(files),
            "private": id in self.server.private,
            "cardData": data or {},
            "siblings": siblings,
        }

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
