import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_server import BAD_TOKEN, GATED, HubServer
from huggingface_hub import constants, snapshot_download
from huggingface_hub.utils import close_session

from weighted_mtp.errors import UserError
from weighted_mtp.hub import Fetched, fetch, fetched_revision, retry, token

SIZE = 300_000
WEIGHTS = random.Random(0).randbytes(SIZE)
DATA = {"README.md": b"---\nlicense: other\nlicense_name: llama9\n---\n", "config.json": b"{}", "empty.txt": b""}
MODEL = {**DATA, "model.safetensors": WEIGHTS}
INSTEAD = "give --source DIR"


def write(root: Path, kind: str, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = root / kind / "org" / "name" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No token, a cache of the test's own, and short waits."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 2)
    monkeypatch.setattr(retry, "WAITS", (0.0, 0.0, 0.0))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with the model org/name."""
    write(tmp_path / "hub", "models", MODEL)
    with HubServer(tmp_path / "hub") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server
        close_session()


def get(to: Path | None = None, **options: object) -> Fetched:
    return fetch("org/name", "model", to=to, instead=INSTEAD, **options)


def error(to: Path | None = None, **options: object) -> str:
    """The message with which `get` fails: one line that names the repository and ends with what serves instead."""
    with pytest.raises(UserError) as caught:
        get(to, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("org/name: ")
    assert message.endswith(f"; {INSTEAD}")
    return message


def contents(folder: Path) -> dict[str, bytes]:
    """The files that a reader sees, by name."""
    paths = [path for path in folder.rglob("*") if path.is_file() and ".fetch" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_the_server_speaks_what_the_hubs_own_client_expects(hub: HubServer, tmp_path: Path) -> None:
    folder = snapshot_download("org/name", endpoint=hub.endpoint, cache_dir=tmp_path / "other")
    assert contents(Path(folder)) == MODEL


@pytest.mark.parametrize("where", ["folder", "cache"])
def test_all_files_come_and_a_second_call_fetches_none(where: str, hub: HubServer, tmp_path: Path) -> None:
    to = tmp_path / "to" if where == "folder" else None
    first = get(to)
    assert contents(first.folder) == MODEL
    hub.requests.clear()
    assert get(to) == first
    assert [request.path for request in hub.requests] == ["/api/models/org/name"]


def test_what_is_in_the_cache_is_what_the_hubs_own_client_finds(hub: HubServer) -> None:
    fetched = get()
    assert snapshot_download("org/name", local_files_only=True) == str(fetched.folder)
    assert fetched.folder.name == fetched.revision
    assert (fetched.folder / "model.safetensors").resolve().parent.name == "blobs"


def test_what_the_hubs_own_client_put_into_the_cache_is_not_fetched_again(hub: HubServer) -> None:
    snapshot_download("org/name", endpoint=hub.endpoint)
    hub.requests.clear()
    assert contents(get().folder) == MODEL
    assert len(hub.requests) == 1


def test_the_revision_of_a_folder_is_told(hub: HubServer, tmp_path: Path) -> None:
    assert fetched_revision(tmp_path) == ""
    assert get(tmp_path / "to").revision == fetched_revision(tmp_path / "to") != ""


def test_a_dataset_comes_with_its_folders_and_only_what_matches(
    tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"full/train.parquet": b"1", "full/test.parquet": b"2", "small/train.parquet": b"3", "README.md": b"4"}
    write(tmp_path / "hub", "datasets", files)
    fetch("org/name", "dataset", to=tmp_path / "part", patterns=["full/*.parquet"], instead=INSTEAD)
    assert set(contents(tmp_path / "part")) == {"full/train.parquet", "full/test.parquet"}
    fetch("org/name", "dataset", to=tmp_path / "part", instead=INSTEAD)
    assert contents(tmp_path / "part") == files
    assert len(hub.seen("GET /datasets/")) == 4


def test_two_files_of_the_same_content_both_come(hub: HubServer, tmp_path: Path) -> None:
    write(tmp_path / "hub", "models", {"copy.json": b"{}", "large.model": WEIGHTS})
    expected = {**MODEL, "copy.json": b"{}", "large.model": WEIGHTS}
    assert contents(get(tmp_path / "to").folder) == contents(get().folder) == expected


def test_of_a_model_one_format_of_weights_comes_and_nothing_of_its_folders(hub: HubServer, tmp_path: Path) -> None:
    others = ["pytorch_model.bin", "consolidated.safetensors", "original/consolidated.00.pth", "onnx/config.json"]
    write(tmp_path / "hub", "models", dict.fromkeys(others, b"-"))
    assert contents(get(tmp_path / "to").folder) == MODEL
    (tmp_path / "hub/models/org/name/model.safetensors").unlink()
    assert set(contents(get(tmp_path / "again").folder)) == {*DATA, "pytorch_model.bin"}


def test_a_model_without_weights_that_can_be_loaded_is_said(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "hub/models/org/name/model.safetensors").rename(tmp_path / "hub/models/org/name/model.gguf")
    assert "weights that can be loaded" in error()


def test_patterns_that_match_nothing_are_said(hub: HubServer) -> None:
    assert f"{hub.endpoint}/org/name has nothing of what is wanted: a file matching 7B/*, *.pth" in error(
        patterns=["7B/*", "*.pth"]
    )


# --- broken downloads


@pytest.mark.parametrize("where", ["folder", "cache"])
def test_after_a_cut_only_the_rest_is_asked_for(where: str, hub: HubServer, tmp_path: Path) -> None:
    hub.fault("/cdn/", cut=100_000, times=1)
    fetched = get(tmp_path / "to" if where == "folder" else None)
    assert (fetched.folder / "model.safetensors").read_bytes() == WEIGHTS
    assert [request.range for request in hub.seen("/cdn/")] == [None, "bytes=100000-"]


def test_a_connection_that_is_reset_is_taken_up_again(hub: HubServer, tmp_path: Path) -> None:
    hub.fault("/cdn/", cut=100_000, reset=True, times=2)
    assert contents(get(tmp_path / "to").folder) == MODEL


def test_cuts_without_end_are_given_up_and_the_same_command_goes_on(hub: HubServer, tmp_path: Path) -> None:
    hub.fault("/cdn/", cut=10_000, times=4)
    assert "broke off" in error(tmp_path / "to")
    assert len(hub.seen("/cdn/")) == 4
    get(tmp_path / "to")
    assert hub.seen("/cdn/")[-1].range == "bytes=40000-"


def test_attempts_count_anew_after_a_good_part(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weighted_mtp.hub.transfer.NEW_START", 10_000)
    hub.fault("/cdn/", cut=10_000, times=20)
    assert contents(get(tmp_path / "to").folder) == MODEL


def test_a_server_that_ignores_the_range_is_read_from_the_start(hub: HubServer, tmp_path: Path) -> None:
    hub.fault("/cdn/", cut=100_000, times=1)
    hub.fault("/cdn/", no_range=True)
    assert contents(get(tmp_path / "to").folder) == MODEL


CALL = "import sys; from pathlib import Path; from weighted_mtp.hub import fetch"
CALL += "; print(fetch('org/name', 'model', to=Path(sys.argv[1]), instead='-').revision)"


def test_a_killed_process_is_taken_up_where_it_was(hub: HubServer, tmp_path: Path) -> None:
    hub.fault("/cdn/", cut=200_000, silent=True, times=1)
    process = subprocess.Popen([sys.executable, "-c", CALL, str(tmp_path / "to")], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not any(part.stat().st_size == 200_000 for part in (tmp_path / "to").glob(".fetch/*.part")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert "model.safetensors" not in contents(tmp_path / "to")
    assert contents(get(tmp_path / "to").folder) == MODEL
    assert hub.seen("/cdn/")[-1].range == "bytes=200000-"
    assert not list((tmp_path / "to").glob(".fetch/*.part"))


def test_of_two_who_fetch_the_same_one_waits(hub: HubServer, tmp_path: Path) -> None:
    hub.fault("/cdn/", cut=200_000, silent=True, times=1)
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(get, tmp_path / "to") for _ in range(2)]
    assert both[0].result() == both[1].result()
    assert contents(tmp_path / "to") == MODEL
    assert [request.range for request in hub.seen("/cdn/")] == [None, "bytes=200000-"]


# --- damaged files


@pytest.mark.parametrize("name", ["/cdn/.*model.safetensors", "/resolve/.*config.json"])
def test_a_damaged_file_is_fetched_once_more(name: str, hub: HubServer, tmp_path: Path) -> None:
    hub.fault(name, corrupt=True, times=1)
    assert contents(get(tmp_path / "to").folder) == MODEL
    assert [request.range for request in hub.seen(name)] == [None, None]


@pytest.mark.parametrize("where", ["folder", "cache"])
def test_a_file_damaged_twice_is_named_and_leaves_nothing(where: str, hub: HubServer, tmp_path: Path) -> None:
    hub.fault("/cdn/", corrupt=True)
    assert "model.safetensors arrived damaged twice" in error(tmp_path / "to" if where == "folder" else None)
    assert len(hub.seen("/cdn/")) == 2
    assert not list(tmp_path.glob("to/model.safetensors")) + list(tmp_path.rglob("snapshots/*/model.safetensors"))


def test_a_file_shorter_than_listed_is_named(hub: HubServer) -> None:
    hub.fault("/cdn/", short=1000)
    assert "model.safetensors ends before its 300000 bytes" in error()


def test_a_file_that_does_not_end_is_cut_off(hub: HubServer, tmp_path: Path) -> None:
    hub.fault("/cdn/", surplus=10_000_000, cut=5_000_000, silent=True)
    assert "model.safetensors arrived damaged twice" in error()


def test_a_part_that_rotted_on_the_disk_is_fetched_anew(hub: HubServer, tmp_path: Path) -> None:
    hub.fault("/cdn/", cut=100_000, times=1)
    hub.fault("/cdn/", status=403, times=1)
    error(tmp_path / "to")
    (part,) = (tmp_path / "to").glob(".fetch/*.part")
    part.write_bytes(bytes(100_000))
    assert contents(get(tmp_path / "to").folder) == MODEL


def test_a_file_of_the_users_own_is_kept_if_it_is_the_hubs_and_replaced_if_not(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to/model.safetensors").write_bytes(WEIGHTS)
    (tmp_path / "to/config.json").write_bytes(b"[]")
    assert contents(get(tmp_path / "to").folder) == MODEL
    assert hub.seen("/cdn/") == []


def test_a_new_revision_replaces_what_changed_and_removes_what_is_gone(hub: HubServer, tmp_path: Path) -> None:
    first = get(tmp_path / "to")
    (tmp_path / "to/notes.txt").write_bytes(b"the user's own")
    write(tmp_path / "hub", "models", {"config.json": b"[1]"})
    (tmp_path / "hub/models/org/name/empty.txt").unlink()
    second = get(tmp_path / "to")
    assert second.revision == fetched_revision(tmp_path / "to") != first.revision
    kept = {name: data for name, data in MODEL.items() if name != "empty.txt"}
    assert contents(tmp_path / "to") == {**kept, "config.json": b"[1]", "notes.txt": b"the user's own"}
    assert len(hub.seen("/cdn/")) == 1


# --- refusals


def test_a_token_is_shown_to_the_hub_and_not_to_its_cdn(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    get()
    assert {request.token for request in hub.seen("/api/|/resolve/")} == {"Bearer hf_secret"}
    assert {request.token for request in hub.seen("/cdn/")} == {None}


@pytest.mark.parametrize("line", ["HF_TOKEN=hf_file", "# a token\nexport HF_TOKEN = 'hf_file'\nOTHER=1"])
def test_a_token_is_read_from_env_in_the_current_folder_unless_the_environment_has_one(
    line: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(line + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    get()
    assert {request.token for request in hub.seen("/api/")} == {"Bearer hf_file"}
    hub.requests.clear()
    monkeypatch.setenv("HF_TOKEN", "hf_environment")
    get()
    assert {request.token for request in hub.seen("/api/")} == {"Bearer hf_environment"}


@pytest.mark.parametrize(
    "value",
    ["<your-token>", "'<your-token>'", "…", "hf_...", "your token", "YOUR_TOKEN", "hf_xxxx", "hf_" + 34 * "x"],
)
@pytest.mark.parametrize("place", [".env", "the environment"])
def test_a_placeholder_is_ignored_with_one_line(
    value: str,
    place: str,
    hub: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(token, "_said", set())
    if place == ".env":
        (tmp_path / ".env").write_text(f"HF_TOKEN={value}\n", encoding="utf-8-sig")
    else:
        os.environ["HF_TOKEN"] = value
    for folder in ("a", "b"):
        get(tmp_path / folder)
    assert {request.token for request in hub.requests} == {None}
    said = [line for line in capsys.readouterr().err.splitlines() if "placeholder" in line]
    named = value.strip("'") if place == ".env" else value
    assert said == [f"HF_TOKEN={named} in {place} is a placeholder and is ignored; public downloads need no token"]


@pytest.mark.parametrize("line", ["HF_TOKEN=", "HF_TOKENS=hf_other"])
def test_what_is_no_token_is_not_shown_as_one(
    line: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(line + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    get()
    assert {request.token for request in hub.seen("/api/")} == {None}


def test_what_is_public_is_fetched_without_a_token_that_the_hub_refuses(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    hub.fault("/api/", status=401, headers=BAD_TOKEN, times=1)
    get()
    assert [request.token for request in hub.seen("/api/")] == ["Bearer hf_expired", None]
    assert {request.token for request in hub.seen("/resolve/")} == {None}
    assert "it is public, and fetched without one" in capsys.readouterr().err


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_model_is_said_with_licence_page_and_token(status: int, hub: HubServer) -> None:
    hub.fault("/resolve/", status=status, headers=GATED)
    message = error()
    assert (
        f"gated (licence: llama9); accept its terms at {hub.endpoint}/org/name, then put HF_TOKEN=… in .env" in message
    )
    assert "hf auth login" in message
    assert len(hub.seen("/resolve/")) == 1


def test_a_wrong_token_is_said(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    hub.fault("/api/", status=401, headers=BAD_TOKEN)
    assert "does not accept the token (401)" in error()


def test_a_lacking_right_to_read_is_said(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.fault("/api/", status=403)
    assert "cannot be read without a token (403)" in error()
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert "the token may not read it (403)" in error()


def test_an_unknown_repository_is_said(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "hub/models/org/name").rename(tmp_path / "hub/models/org/other")
    assert f"no such model at {hub.endpoint}, or a private one; check the name" in error()


@pytest.mark.parametrize(
    ("code", "expected"), [("RevisionNotFound", "has no revision main"), ("EntryNotFound", "does not have")]
)
def test_a_404_on_the_way_is_said(code: str, expected: str, hub: HubServer) -> None:
    hub.fault("/resolve/", status=404, headers={"X-Error-Code": code})
    assert expected in error()


@pytest.mark.parametrize("repo_id", ["/nowhere/at/all", "./nowhere", "no/such/folder", "name "])
def test_what_cannot_be_an_id_is_said_without_asking(repo_id: str, hub: HubServer) -> None:
    with pytest.raises(UserError, match="not an id on the hub"):
        fetch(repo_id, "model", instead=INSTEAD)
    assert hub.requests == []


# --- a hub in trouble


@pytest.mark.parametrize("where", ["/api/", "/resolve/", "/cdn/"])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_trouble_is_waited_for(where: str, status: int, hub: HubServer, tmp_path: Path) -> None:
    hub.fault(where, status=status, times=3)
    assert contents(get(tmp_path / "to").folder) == MODEL


@pytest.mark.parametrize("where", ["/api/", "/cdn/"])
@pytest.mark.parametrize(
    ("status", "expected"), [(429, "asks for fewer requests (429); try again later"), (503, "has trouble (503 Serv")]
)
def test_lasting_trouble_is_said(where: str, status: int, expected: str, hub: HubServer) -> None:
    hub.fault(where, status=status)
    assert expected in error()
    assert len(hub.seen(where)) == 4


LIMIT = {"RateLimit": '"api";r=0;t=6', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}


@pytest.mark.parametrize("headers", [{"Retry-After": "7"}, LIMIT])
def test_as_long_as_the_hub_asks_is_waited(
    headers: dict[str, str],
    hub: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(retry, "sleep", waited.append)
    hub.fault("/resolve/", status=429, headers=headers, times=1)
    get()
    assert waited == [7.0]
    assert "the hub asks to wait: 7 s" in capsys.readouterr().err


def test_longer_than_reason_is_not_waited(hub: HubServer) -> None:
    hub.fault("/resolve/", status=429, headers={"Retry-After": "3600"})
    assert "try again in 3600 s" in error()
    assert len(hub.seen("/resolve/")) == 1


@pytest.mark.parametrize(("where", "cut"), [("/api/", -1), ("/cdn/", -1), ("/cdn/", 1000)])
def test_a_hub_that_falls_silent_is_given_up(
    where: str, cut: int, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    hub.fault(where, silent=True, cut=cut)
    assert f"{hub.endpoint} did not answer in 0.1 s" in error()
    assert len(hub.seen(where)) == 4


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize("endpoint", [f"http://127.0.0.1:{closed_port()}", "127.0.0.1:1", "http://["])
def test_a_hub_that_is_not_there_is_said_at_once(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setattr(retry, "sleep", lambda _: pytest.fail("waited"))
    message = error()
    assert message.startswith(f"org/name: {endpoint} cannot be reached (")
    assert "check the network and HF_ENDPOINT" in message


def test_a_network_without_names_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setenv("HF_ENDPOINT", "http://nowhere.invalid")
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert (
        "http://nowhere.invalid cannot be reached ([Errno -2] Name or service not known); check the network" in error()
    )


PORTAL = {"status": 200, "body": b"<html>Please log in</html>"}


def test_an_answer_that_is_no_hubs_is_said(hub: HubServer) -> None:
    hub.fault("/api/", **PORTAL)
    assert "is no model hub" in error()


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/outside.txt"])
def test_names_outside_the_repository_are_refused(name: str, hub: HubServer, tmp_path: Path) -> None:
    files = [{"rfilename": name, "size": 2, "blobId": "0" * 40}]
    answer = {"id": "org/name", "sha": "0" * 40, "siblings": files}
    hub.fault("/api/", status=200, body=json.dumps(answer).encode())
    assert f"is no model hub (file {name!r}" in error(tmp_path / "to", patterns=["*"])


# --- without the hub


@pytest.mark.parametrize("where", ["folder", "cache"])
@pytest.mark.parametrize("trouble", ["gone", "offline", "503", "portal"])
def test_a_complete_copy_serves_when_the_hub_cannot_be_reached(
    where: str,
    trouble: str,
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    to = tmp_path / "to" if where == "folder" else None
    first = get(to)
    capsys.readouterr()
    if trouble == "gone":
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    elif trouble == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        hub.fault("/api/", **(PORTAL if trouble == "portal" else {"status": 503}))
    assert get(to) == first
    assert f"the local copy serves, revision {first.revision}\n" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["folder", "cache"])
def test_a_copy_that_lacks_a_file_does_not_serve(
    where: str, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = tmp_path / "to" if where == "folder" else None
    (get(to).folder / "model.safetensors").unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set, so the hub is not contacted; unset it" in error(to)


def test_a_copy_made_with_fewer_patterns_does_not_serve(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    get(tmp_path / "to", patterns=["*.json"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert get(tmp_path / "to", patterns=["*.json"]).folder == tmp_path / "to"
    assert "HF_HUB_OFFLINE is set" in error(tmp_path / "to")


def test_a_refusal_is_not_hidden_by_a_copy(hub: HubServer, tmp_path: Path) -> None:
    get(tmp_path / "to")
    hub.fault("/api/", status=404)
    assert "no such model" in error(tmp_path / "to")


# --- the disk


def test_too_little_space_is_said_before_the_download(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    assert f"needs 0.3 MB in {tmp_path / 'to'}, which has 0.0 MB free" in error(tmp_path / "to")
    assert hub.seen("/resolve/") == []


def test_a_disk_that_fills_up_on_the_way_is_said(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "to" / ".fetch"
    folder.mkdir(parents=True)
    (folder / f"{hashlib.sha256(WEIGHTS).hexdigest()}.part").symlink_to("/dev/full")
    assert "the disk is full" in error(tmp_path / "to")


def test_a_folder_that_cannot_be_made_is_said(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert "choose a folder that you may write to" in error(tmp_path / "file" / "to")
