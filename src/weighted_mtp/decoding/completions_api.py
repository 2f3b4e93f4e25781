"""The protocol of OpenAI-compatible servers, as vLLM, SGLang, llama.cpp and Ollama speak it.

    GET  {base_url}/models              what is served
    POST {base_url}/completions         a text is continued
    POST {base_url}/chat/completions    a message is put into the server's chat template and answered

One request draws one completion, so `n`, which several servers ignore, is never needed. Whether stop strings and the
limit of tokens were obeyed is seen in the answer: a text is cut here as well, and too long a one is an error.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

import httpx2

from weighted_mtp.decoding.config import SamplingConfig
from weighted_mtp.decoding.engine import Message
from weighted_mtp.decoding.rows import Completion, Finished
from weighted_mtp.errors import UserError, first_line

_CONTEXT = re.compile(r"context|maximum.{0,20}length|too (long|large|many tokens)|max_model_len", re.IGNORECASE)
_MODEL = re.compile(r"\bmodel\b", re.IGNORECASE)
_LONGEST_QUOTE = 200  # characters of what a server says
_END_TOKEN = 1  # token that some servers count beyond the limit
MOST_STOPS = 4  # stop strings that OpenAI's own API takes


class HalfAnswerError(Exception):
    """An answer that breaks off, is no JSON, or does not say how the completion ended."""


@dataclass(frozen=True)
class Access:
    """Where a server is, the environment variable that its key was in, and how long an answer may take."""

    base_url: str
    api_key_env: str | None
    timeout_seconds: float


def path_of(prompt: str | Message) -> str:
    return "/chat/completions" if isinstance(prompt, Message) else "/completions"


def request_body(
    model: str, prompt: str | Message, options: SamplingConfig, seed: int, most_stops: int | None
) -> dict[str, Any]:
    """A request for one completion."""
    asked = (
        {"messages": [{"role": "user", "content": prompt.content}]}
        if isinstance(prompt, Message)
        else {"prompt": prompt}
    )
    stops = list(options.stop[:most_stops])
    return {
        "model": model,
        **asked,
        "max_tokens": options.max_new_tokens,
        "temperature": options.temperature,
        "top_p": options.top_p,
        "seed": seed,
        "stream": False,
        **({"stop": stops} if stops else {}),
    }


def read_completion(content: bytes, options: SamplingConfig) -> Completion:
    """The completion in the body of an answer with status 200.

    `finished` is `stop` where a stop string is in the text, or where the server says that it met one. Most servers say
    no more than "stop" for an end token as for a stop string: that is `eos` without stop strings, else `stop`.

    Raises HalfAnswerError for half an answer, UserError for a server that does not do what it was asked for.
    """
    choices, usage = _choices(content)
    if len(choices) != 1:
        raise UserError(f"answers with {len(choices)} completions where one was requested; use a server with n=1")
    try:
        choice = choices[0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        reason = choice["finish_reason"]
    except (KeyError, TypeError) as error:
        raise HalfAnswerError("an answer has no text or no finish_reason") from error
    if reason not in ("stop", "length"):
        raise HalfAnswerError(f"an answer ends with finish_reason {reason!r} in place of 'stop' or 'length'")
    n_tokens = usage.get("completion_tokens")
    if not isinstance(n_tokens, int):
        raise UserError("does not say how many tokens it drew (usage.completion_tokens); use a server that does")
    if n_tokens > options.max_new_tokens + _END_TOKEN:
        raise UserError(
            f"drew {n_tokens} tokens where --max-new-tokens {options.max_new_tokens} allows no more: it ignores "
            "max_tokens; use a server that obeys it"
        )
    return _cut(text or "", n_tokens, reason, choice.get("stop_reason", ...), options)


def _choices(content: bytes) -> tuple[list[Any], dict[str, Any]]:
    """Choices and token counts of an answer. Raises HalfAnswerError if it is cut off."""
    try:
        answer = json.loads(content)
    except ValueError as error:
        raise HalfAnswerError("an answer is no whole JSON object") from error
    if not isinstance(answer, dict) or not isinstance(answer.get("choices"), list):
        raise UserError(
            "answers in a form of its own, without choices; give as --base-url where its OpenAI-compatible API begins, "
            "which most servers have under /v1"
        )
    return answer["choices"], answer.get("usage") or {}


def _cut(text: str, n_tokens: int, reason: str, met: Any, options: SamplingConfig) -> Completion:
    """`met` is what vLLM and SGLang say ended the completion: a stop string, a token, or None; `...` elsewhere."""
    end = min((at for at in (text.find(stop) for stop in options.stop) if at >= 0), default=None)
    finished: Finished = "length"
    if end is not None or isinstance(met, str):
        finished = "stop"
    elif reason == "stop":
        finished = "stop" if options.stop and met is ... else "eos"
    return Completion(text[:end], n_tokens, finished)


def said(response: httpx2.Response) -> str:
    """What a server says of an error, in a line."""
    try:
        found = response.json()
        for key in ("error", "message", "detail"):
            found = found.get(key, found) if isinstance(found, dict) else found
        text = found if isinstance(found, str) else json.dumps(found)
    except ValueError:
        text = response.text
    line = (text.strip() or response.reason_phrase or "no reason given").splitlines()[0]
    return line[:_LONGEST_QUOTE] + ("…" if len(line) > _LONGEST_QUOTE else "")


def refuses_stops(response: httpx2.Response, body: dict[str, Any]) -> bool:
    """Whether a server takes no more than a few stop strings."""
    return response.status_code in (400, 422) and len(body.get("stop", ())) > MOST_STOPS and "stop" in said(response)


def explained(error: Exception, access: Access) -> str:
    """What went wrong and what fixes it, in words that follow the server's address."""
    match error:
        case HalfAnswerError():
            return f"{error}, again and again; look at the server's log, or at the time limit of a proxy before it"
        case httpx2.HTTPStatusError():
            return _refusal(error.response, access)
        case httpx2.ConnectTimeout() | httpx2.ConnectError():
            return (
                f"no server answers there ({first_line(error)}); start it (`vllm serve MODEL`, `llama-server -m FILE`, "
                "`ollama serve`), or correct --base-url"
            )
        case httpx2.TimeoutException():
            return (
                f"no answer in {access.timeout_seconds:g} s; raise --request-timeout, or lower --batch-size (requests "
                "at a time)"
            )
        case httpx2.UnsupportedProtocol() | httpx2.InvalidURL():
            return f"no address of a server ({first_line(error)}); --base-url is like http://127.0.0.1:8000/v1"
        case _:
            return f"the connection broke off ({first_line(error)}), again and again; look at the server's log"


def _refusal(response: httpx2.Response, access: Access) -> str:
    status, words = response.status_code, said(response)
    if status in (401, 403):
        return _key_refused(status, words, access)
    if response.is_redirect:
        return f"redirects to {response.headers.get('Location')}; give the address behind it as --base-url"
    if status == 404 and _MODEL.search(words):
        return f"does not serve the model ({words}); correct --model"
    if status in (404, 405):
        hint = (
            "" if access.base_url.endswith("/v1") else f"; most servers have it under --base-url {access.base_url}/v1"
        )
        return f"has no {response.request.url.path} ({status}), so it is no OpenAI-compatible server{hint}"
    if status in (400, 413, 422) and _CONTEXT.search(words):
        return (
            f"a prompt and --max-new-tokens do not fit the model's context ({words}); lower --max-new-tokens, or start "
            "the server with a longer context"
        )
    if status == 429:
        return f"asks for fewer requests (429: {words}), again and again; lower --batch-size (requests at a time)"
    if status >= 500:
        return f"has trouble ({status}: {words}), again and again; look at its log"
    return f"refuses the request ({status}: {words}); correct the option it names, or use another server"


def _key_refused(status: int, words: str, access: Access) -> str:
    if access.api_key_env is None:
        return f"asks for a key ({status}: {words}); put it into an environment variable and give --api-key-env NAME"
    return f"does not accept the key in {access.api_key_env} ({status}: {words}); put the right one there"
