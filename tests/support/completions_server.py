"""An OpenAI-compatible completions server on loopback, which fails and disobeys when told to.

What it says is a function of the prompt and the seed, so that a resumed evaluation can be compared with a whole one.
"""

import hashlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

MODEL = "tiny"


@dataclass
class Fault:
    """What happens instead of an answer, `times` times.

    status         it is answered, with `headers` and the error `message`
    drop           the connection is reset before an answer
    half           only half of the answer is sent, then the connection is closed
    not_json       the answer is text
    unfinished     the answer has no finish_reason
    """

    times: int = 1
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "a fault"
    drop: bool = False
    half: bool = False
    not_json: bool = False
    unfinished: bool = False


@dataclass
class Habits:
    """How the server differs from one that does everything it is asked for."""

    key: str | None = None
    models: tuple[str, ...] = (MODEL,)
    context: int = 100_000  # words
    most_stops: int | None = None
    ignores_stop: bool = False
    ignores_seed: bool = False
    ignores_max_tokens: bool = False
    choices: int | None = 1  # None for an answer of another API
    says_stop_reason: bool = False
    says_usage: bool = True
    seconds: float = 0.0


class CompletionsServer(ThreadingHTTPServer):
    """A context manager; `faults` are taken in order, `seen` are the bodies of all requests for completions.

    text  (prompt, seed) → the words of a completion
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, text: Callable[[str, int], list[str]] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.text = text or words_of
        self.habits, self.faults = Habits(), list[Fault]()
        self.seen: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.at_once = self.most_at_once = self.answered = 0
        self.lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def fault(self) -> Fault | None:
        with self.lock:
            if not self.faults:
                return None
            self.faults[0].times -= 1
            return self.faults[0] if self.faults[0].times > 0 else self.faults.pop(0)

    def handle_error(self, *_: object) -> None:
        """A client that has gone is no error."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


def words_of(prompt: str, seed: int) -> list[str]:
    """A few words, different for each prompt and seed."""
    digest = hashlib.sha256(f"{prompt}/{seed}".encode()).hexdigest()
    return [digest[i : i + 4] for i in range(0, 4 * (3 + int(digest[0], 16) % 6), 4)]


class _Handler(BaseHTTPRequestHandler):
    server: CompletionsServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        habits = self.server.habits
        if habits.key is not None and self.headers["Authorization"] != f"Bearer {habits.key}":
            self._error(401, "Incorrect API key")
        elif self.path != "/v1/models":
            self._error(404, "Not Found")
        else:
            self._send(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in habits.models]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.seen.append(body)
            server.paths.append(self.path)
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            time.sleep(server.habits.seconds)
            self._answer(body, server.fault())
        finally:
            with server.lock:
                server.at_once -= 1

    def _answer(self, body: dict[str, Any], fault: Fault | None) -> None:
        habits = self.server.habits
        if fault is not None and fault.drop:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
        elif fault is not None and fault.status:
            self._error(fault.status, fault.message, fault.headers)
        elif habits.key is not None and self.headers["Authorization"] != f"Bearer {habits.key}":
            self._error(401, "Incorrect API key")
        elif body["model"] not in habits.models:
            self._error(404, f"The model `{body['model']}` does not exist.")
        elif habits.most_stops is not None and len(body.get("stop", ())) > habits.most_stops:
            self._error(400, f"Invalid 'stop': array too long. Expected at most {habits.most_stops}.")
        elif len(_prompt(body).split()) + body["max_tokens"] > habits.context:
            self._error(400, f"This model's maximum context length is {habits.context} tokens.")
        else:
            self._complete(body, fault or Fault())

    def _complete(self, body: dict[str, Any], fault: Fault) -> None:
        habits = self.server.habits
        if habits.ignores_seed:
            self.server.answered += 1
        seed = self.server.answered if habits.ignores_seed else body["seed"]
        words = self.server.text(_prompt(body), seed)
        shown = words if habits.ignores_max_tokens else words[: body["max_tokens"]]
        text, stopped = " ".join(shown), None
        for stop in () if habits.ignores_stop else body.get("stop", ()):
            if stop in text:
                text, stopped = text[: text.index(stop)], stop
        reason = "stop" if stopped is not None or len(shown) == len(words) else "length"
        said = {"message": {"role": "assistant", "content": text}} if "messages" in body else {"text": text}
        choice = {"index": 0, "finish_reason": None if fault.unfinished else reason, **said}
        if habits.says_stop_reason:
            choice["stop_reason"] = stopped
        choices = None if habits.choices is None else [choice] * habits.choices
        usage = {"usage": {"completion_tokens": len(shown)}} if habits.says_usage else {}
        self._send(200, {"object": "text_completion", "choices": choices, **usage}, fault)

    def _error(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        self._send(status, {"error": {"message": message}}, headers=headers)

    def _send(
        self, status: int, answer: dict[str, Any], fault: Fault | None = None, headers: dict[str, str] | None = None
    ) -> None:
        data = b"<html>Bad luck</html>" if fault is not None and fault.not_json else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if fault is not None and fault.half:
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def _prompt(body: dict[str, Any]) -> str:
    return body["prompt"] if "prompt" in body else body["messages"][0]["content"]
