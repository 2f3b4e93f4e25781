"""Sampling from an OpenAI-compatible server: one request per completion, several at a time, each retried."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import final

import httpx2
import numpy as np
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from weighted_mtp.decoding.completions_api import (
    MOST_STOPS,
    Access,
    HalfAnswerError,
    explained,
    path_of,
    read_completion,
    refuses_stops,
    request_body,
)
from weighted_mtp.decoding.config import SamplingConfig, ServerConfig
from weighted_mtp.decoding.engine import Engine, Message, Prompt, numbered
from weighted_mtp.decoding.rows import Completion
from weighted_mtp.decoding.sample import Drawn
from weighted_mtp.errors import UserError
from weighted_mtp.progress import say

ATTEMPTS = 6
_WAIT = wait_exponential_jitter(multiplier=0.5, max=30)
LONGEST_WAIT = 300.0  # seconds that we wait because a server asks for it
_CONNECT_SECONDS = 10.0
_PROBE_TOKENS = 8
_PASSING = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError, HalfAnswerError)


@final
class ServerEngine(Engine):
    """A model behind an API. Raises UserError if the server is not there or does not serve the model."""

    takes_text = True

    def __init__(self, config: ServerConfig) -> None:
        self.config, self._headers = config, config.headers()
        self.model = served_model(config)
        self._most_stops: int | None = None
        self._seed_is_checked = False

    def unit(self, options: SamplingConfig, n_prompts: int) -> int:
        return 1

    def draw(
        self,
        prompts: Sequence[Prompt],
        options: SamplingConfig,
        chosen: Sequence[int],
        on_progress: Callable[[int], None] | None = None,
        names: Sequence[str] | None = None,
    ) -> Iterator[tuple[int, list[Drawn]]]:
        """At most `options.batch_size` requests at a time; completions come as they are finished."""
        asked = [prompt for prompt in prompts if not isinstance(prompt, list)]
        assert len(asked) == len(prompts)
        named = [f"prompt {p}" for p in range(len(prompts))] if names is None else names
        with asyncio.Runner() as runner:
            client = runner.run(self._connected(options.batch_size))
            try:
                if chosen and options.temperature > 0 and not self._seed_is_checked:
                    self._seed_is_checked = True
                    runner.run(self._check_seed(client, asked[numbered(chosen[0], options)[0]], options))
                waiting, pending = iter(chosen), set[asyncio.Task[tuple[int, list[Drawn]]]]()
                while True:
                    for number in islice(waiting, options.batch_size - len(pending)):
                        pending.add(runner.get_loop().create_task(self._unit(client, asked, options, number, named)))
                    if not pending:
                        return
                    done, pending = runner.run(_first(pending))
                    for task in sorted(done, key=lambda task: task.exception() is not None):
                        yield task.result()
                        if on_progress is not None:
                            on_progress(1)
            finally:
                runner.run(client.aclose())

    async def _connected(self, connections: int) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            headers=self._headers,
            timeout=httpx2.Timeout(self.config.request_timeout, connect=_CONNECT_SECONDS, pool=None),
            limits=httpx2.Limits(max_connections=connections),
        )

    async def _unit(
        self,
        client: httpx2.AsyncClient,
        prompts: Sequence[str | Message],
        options: SamplingConfig,
        number: int,
        names: Sequence[str],
    ) -> tuple[int, list[Drawn]]:
        prompt, sample = numbered(number, options)
        seed = seed_of(options.seed, prompt, sample)
        try:
            completion = await self._complete(client, prompts[prompt], options, seed)
        except UserError as error:
            raise UserError(f"{names[prompt]}: {error}; the same command resumes") from error
        return number, [Drawn(prompt, sample, completion)]

    async def _complete(
        self, client: httpx2.AsyncClient, prompt: str | Message, options: SamplingConfig, seed: int
    ) -> Completion:
        """One completion, asked for until it is there. Raises UserError if it does not come."""
        try:
            async for attempt in _attempts():
                with attempt:
                    return await self._ask(client, prompt, options, seed)
        except (httpx2.HTTPError, httpx2.InvalidURL, HalfAnswerError) as error:
            raise UserError(f"{self.config.base_url}: {explained(error, _access(self.config))}") from error
        except UserError as error:
            raise UserError(f"{self.config.base_url}: the server {error}") from error
        raise AssertionError("the last attempt returns or raises")

    async def _ask(
        self, client: httpx2.AsyncClient, prompt: str | Message, options: SamplingConfig, seed: int
    ) -> Completion:
        body = request_body(self.model, prompt, options, seed, self._most_stops)
        response = await client.post(self.config.base_url + path_of(prompt), json=body)
        if refuses_stops(response, body):
            self._most_stops = MOST_STOPS  # the text is cut here at all of them
            return await self._ask(client, prompt, options, seed)
        _raise_for_status(response)
        return read_completion(response.content, options)

    async def _check_seed(self, client: httpx2.AsyncClient, prompt: str | Message, options: SamplingConfig) -> None:
        """Say so where the same seed gives another text: the samples then cannot be drawn again."""
        short = options.model_copy(update={"max_new_tokens": min(_PROBE_TOKENS, options.max_new_tokens)})
        one, other = [await self._complete(client, prompt, short, seed_of(options.seed, 0, 0)) for _ in range(2)]
        if one.text != other.text:
            say(f"{self.config.base_url}: the same seed gives another text, so these samples cannot be drawn again")


def _access(config: ServerConfig) -> Access:
    return Access(config.base_url, config.api_key_env, config.request_timeout)


def seed_of(seed: int, prompt: int, sample: int) -> int:
    """What a server is given for one completion: 31 bits, a function of what the completion is."""
    return int(np.random.SeedSequence([seed, prompt, sample]).generate_state(1)[0]) >> 1


def served_model(config: ServerConfig) -> str:
    """The server's name for the model that `config` means.

    Raises UserError if no server answers, the key is refused, or several models or another one are served.
    """
    headers = config.headers()
    try:
        with httpx2.Client(headers=headers, timeout=_CONNECT_SECONDS) as client:
            response = client.get(f"{config.base_url}/models")
        _raise_for_status(response)
        names = [str(model["id"]) for model in response.json()["data"]]
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise UserError(f"--base-url {config.base_url}: {explained(error, _access(config))}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--base-url {config.base_url}: /models is no list of models, so this is no OpenAI-compatible server; "
            "give the address at which its API begins, which most have under /v1"
        ) from error
    if config.model in names:
        return config.model
    if config.model is None and len(names) == 1:
        return names[0]
    listed = ", ".join(names[:10]) or "no model"
    wrong = "give --model: several" if config.model is None else f"--model {config.model} is not served; these"
    raise UserError(f"--base-url {config.base_url}: {wrong} are there: {listed}")


async def _first(
    pending: set["asyncio.Task[tuple[int, list[Drawn]]]"],
) -> tuple[set["asyncio.Task[tuple[int, list[Drawn]]]"], set["asyncio.Task[tuple[int, list[Drawn]]]"]]:
    return await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)


def _attempts() -> AsyncRetrying:
    return AsyncRetrying(
        retry=retry_if_exception(_may_pass), wait=_pause, stop=stop_after_attempt(ATTEMPTS), reraise=True
    )


def _may_pass(error: BaseException) -> bool:
    """Whether another attempt makes sense."""
    if isinstance(error, httpx2.HTTPStatusError):
        status = error.response.status_code
        return (status in (408, 425, 429) or status >= 500) and _asked_wait(error) <= LONGEST_WAIT
    return isinstance(error, _PASSING)


def _pause(state: RetryCallState) -> float:
    """Seconds before the next attempt: as long as the server asks, if it does."""
    error = state.outcome.exception() if state.outcome is not None else None
    return max(_WAIT(state), _asked_wait(error))


def _asked_wait(error: BaseException | None) -> float:
    if not isinstance(error, httpx2.HTTPStatusError):
        return 0.0
    seconds = error.response.headers.get("Retry-After", "").strip()
    return float(seconds) if seconds.isdigit() else 0.0


def _raise_for_status(response: httpx2.Response) -> None:
    if not response.is_success:
        raise httpx2.HTTPStatusError(f"{response.status_code}", request=response.request, response=response)
