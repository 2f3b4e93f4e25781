"""Sampling from a server: what is asked, what is kept, and what is said when it does not go well."""

from collections.abc import Iterator
from typing import Any

import pytest
from completions_server import MODEL, CompletionsServer, Fault, Habits, words_of
from tenacity import wait_none

from weighted_mtp.decoding import server as server_module
from weighted_mtp.decoding.config import SamplingConfig, ServerConfig
from weighted_mtp.decoding.engine import Message, Prompt
from weighted_mtp.decoding.sample import Drawn
from weighted_mtp.decoding.server import ATTEMPTS, ServerEngine, seed_of
from weighted_mtp.errors import UserError

PROMPTS: list[Prompt] = ["say a", "say b", "say c"]
SAMPLING = SamplingConfig(max_new_tokens=20, temperature=1.0, n_samples=2, batch_size=4, seed=3)
GREEDY = SamplingConfig(max_new_tokens=20)


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_WAIT", wait_none())


@pytest.fixture
def server() -> Iterator[CompletionsServer]:
    with CompletionsServer() as running:
        yield running


def engine(server: CompletionsServer, **options: Any) -> ServerEngine:
    return ServerEngine(ServerConfig(base_url=server.base_url, **options))


def drawn(
    server: CompletionsServer, options: SamplingConfig = SAMPLING, prompts: list[Prompt] = PROMPTS, **more: Any
) -> dict[tuple[int, int], Drawn]:
    asked = engine(server, **more)
    units = asked.draw(prompts, options, range(len(prompts) * options.n_samples))
    return {(one.prompt, one.sample): one for _, unit in units for one in unit}


def test_every_completion_is_asked_for_with_the_options_and_a_seed_of_its_own(server: CompletionsServer) -> None:
    found = drawn(server, SAMPLING.model_copy(update={"top_p": 0.9, "stop": ("@",)}))
    assert sorted(found) == [(p, s) for p in range(3) for s in range(2)]
    for (p, s), one in found.items():
        words = words_of(str(PROMPTS[p]), seed_of(3, p, s))
        assert (one.completion.text, one.completion.n_tokens) == (" ".join(words), len(words))
    asked = [body for body in server.seen if body["max_tokens"] == 20]
    assert {body["seed"] for body in asked} == {seed_of(3, p, s) for p in range(3) for s in range(2)}
    assert {(b["model"], b["temperature"], b["top_p"], *b["stop"]) for b in asked} == {(MODEL, 1.0, 0.9, "@")}
    assert "n" not in asked[0]


def test_a_text_is_continued_and_a_message_answered(server: CompletionsServer) -> None:
    drawn(server, GREEDY, ["a text", Message("a message")])
    assert sorted(zip(server.paths, (b.get("prompt") or b["messages"] for b in server.seen), strict=True), key=str) == [
        ("/v1/chat/completions", [{"role": "user", "content": "a message"}]),
        ("/v1/completions", "a text"),
    ]


@pytest.mark.parametrize("says_stop_reason", [True, False])
def test_it_is_recorded_how_a_completion_finished(server: CompletionsServer, says_stop_reason: bool) -> None:
    server.text = lambda prompt, _: prompt.split()
    server.habits = Habits(says_stop_reason=says_stop_reason)
    stops = GREEDY.model_copy(update={"stop": ("@",), "max_new_tokens": 3})
    found = drawn(server, stops, ["a b c d", "a b", "a @ c"])
    ended = [found[p, 0].completion for p in range(3)]
    assert [one.text for one in ended] == ["a b c", "a b", "a "]
    # What ended "a b" is not said by most servers.
    assert [one.finished for one in ended] == ["length", "eos" if says_stop_reason else "stop", "stop"]
    assert found[1, 0].completion.n_tokens == 2
    (whole,) = drawn(server, GREEDY, ["a b"]).values()
    assert whole.completion.finished == "eos"


@pytest.mark.parametrize("habits", [Habits(ignores_stop=True), Habits(most_stops=4)], ids=["ignored", "too many"])
def test_texts_end_before_stop_strings_that_the_server_does_not_take(server: CompletionsServer, habits: Habits) -> None:
    server.text = lambda prompt, _: prompt.split()
    server.habits = habits
    stops = GREEDY.model_copy(update={"stop": ("1", "2", "3", "4", "@")})
    (one,) = drawn(server, stops, ["a b @ c"]).values()
    assert (one.completion.text, one.completion.finished) == ("a b ", "stop")


def test_no_more_requests_are_open_than_the_batch_size(server: CompletionsServer) -> None:
    server.habits.seconds = 0.05
    drawn(server, SAMPLING.model_copy(update={"n_samples": 4}))
    assert server.most_at_once == 4


@pytest.mark.parametrize(
    "fault",
    [
        Fault(3, status=429, headers={"Retry-After": "0"}),
        Fault(3, status=503),
        Fault(3, drop=True),
        Fault(3, half=True),
        Fault(3, not_json=True),
        Fault(3, unfinished=True),
    ],
    ids=["429", "503", "dropped", "half", "not JSON", "unfinished"],
)
def test_what_passes_is_tried_again(server: CompletionsServer, fault: Fault) -> None:
    server.faults = [fault]
    found = drawn(server, GREEDY)
    assert [found[p, 0].completion.text for p in range(3)] == [
        " ".join(words_of(str(prompt), seed_of(0, p, 0))) for p, prompt in enumerate(PROMPTS)
    ]
    assert len(server.seen) == 6


def test_a_server_is_waited_for_as_long_as_it_asks(server: CompletionsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("asyncio.sleep", sleep)
    server.faults = [Fault(1, status=429, headers={"Retry-After": "7"})]
    drawn(server, GREEDY, ["a"])
    assert 7.0 in slept


ENDLESS = 1_000


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault(ENDLESS, status=429), "asks for fewer requests (429: a fault), again and again; lower --batch-size"),
        (Fault(ENDLESS, status=429, headers={"Retry-After": "86400"}), "asks for fewer requests"),
        (Fault(ENDLESS, status=500, message="CUDA error"), "has trouble (500: CUDA error), again and again; look at"),
        (Fault(ENDLESS, drop=True), "the connection broke off"),
        (Fault(ENDLESS, half=True), "the connection broke off"),
        (Fault(ENDLESS, not_json=True), "no whole JSON object, again and again; look at the"),
        (Fault(ENDLESS, unfinished=True), "ends with finish_reason None in place of"),
        (
            Fault(status=401),
            "asks for a key (401: a fault); put it into an environment variable and",
        ),
        (Fault(status=404, message="Not Found"), "has no /v1/completions (404)"),
        (Fault(status=404, message="The model x is gone"), "does not serve the model (The model x is gone); correct"),
        (Fault(status=307, headers={"Location": "http://b/v1"}), "redirects to http://b/v1; give the address behind"),
        (
            Fault(status=400, message="top_p must be 1"),
            "refuses the request (400: top_p must be 1); correct the",
        ),
        (Fault(status=400, message="exceeds the available context size"), "lower --max-new-tokens, or start the"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_pass_is_one_line_that_names_the_fix(
    server: CompletionsServer, fault: Fault, expected: str
) -> None:
    server.faults = [fault]
    with pytest.raises(UserError) as raised:
        drawn(server, GREEDY, ["a"])
    message = str(raised.value)
    assert expected in message
    assert message.startswith(f"prompt 0: {server.base_url}: ")
    assert message.endswith("; the same command resumes")
    assert "\n" not in message
    assert len(server.seen) <= ATTEMPTS


@pytest.mark.parametrize(
    ("habits", "expected"),
    [
        (Habits(choices=None), "answers in a form of its own, without choices; give as --base-url where its OpenAI"),
        (Habits(choices=2), "answers with 2 completions where one was requested"),
        (Habits(ignores_max_tokens=True), "where --max-new-tokens 1 allows no more: it ignores max_tokens"),
        (Habits(says_usage=False), "does not say how many tokens it drew"),
        (Habits(context=2), "do not fit the model's context (This model's maximum context length is 2 tokens.)"),
    ],
)
def test_a_server_that_does_not_do_what_it_is_asked_for_is_refused(
    server: CompletionsServer, habits: Habits, expected: str
) -> None:
    server.habits = habits
    with pytest.raises(UserError, match=r"^prompt 0: http") as raised:
        drawn(server, SamplingConfig(max_new_tokens=1), ["a b"])
    assert expected in str(raised.value)


def test_what_is_finished_when_another_request_fails_is_kept(server: CompletionsServer) -> None:
    server.faults = [Fault(status=400)]
    units = engine(server).draw(PROMPTS, GREEDY.model_copy(update={"batch_size": 1}), [1, 0, 2])
    with pytest.raises(UserError, match="prompt 1"):
        next(units)
    units = engine(server).draw(PROMPTS, GREEDY, [0, 1, 2])
    assert sorted(number for number, _ in units) == [0, 1, 2]


@pytest.mark.parametrize("ignores", [True, False])
def test_a_server_that_ignores_the_seed_is_named(
    server: CompletionsServer, capsys: pytest.CaptureFixture[str], ignores: bool
) -> None:
    server.habits.ignores_seed = ignores
    drawn(server)
    said = "the same seed gives another text, so these samples cannot be drawn again"
    assert (said in " ".join(capsys.readouterr().err.split())) is ignores


def test_a_key_is_taken_from_the_environment(server: CompletionsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.habits.key = "secret"
    with pytest.raises(UserError, match=r"asks for a key \(401: Incorrect API key\); .* give --api-key-env NAME"):
        drawn(server)
    monkeypatch.setenv("MY_KEY", "wrong")
    with pytest.raises(UserError, match=r"does not accept the key in MY_KEY \(401"):
        drawn(server, api_key_env="MY_KEY")
    monkeypatch.setenv("MY_KEY", "secret")
    assert len(drawn(server, api_key_env="MY_KEY")) == 6
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(UserError, match="--api-key-env MY_KEY: that environment variable is not set"):
        drawn(server, api_key_env="MY_KEY")


def test_a_server_that_is_not_there_is_named_at_once() -> None:
    with CompletionsServer() as gone:
        address = gone.base_url
    with pytest.raises(UserError, match=r"no server answers there .* start it \(`vllm serve MODEL`"):
        ServerEngine(ServerConfig(base_url=address))


def test_an_address_without_its_version_says_where_the_api_is(server: CompletionsServer) -> None:
    address = server.base_url.removesuffix("/v1")
    with pytest.raises(UserError, match=rf"has no /models \(404\), .* under --base-url {address}/v1"):
        ServerEngine(ServerConfig(base_url=address))


def test_the_model_is_the_only_one_or_has_to_be_named(server: CompletionsServer) -> None:
    assert engine(server).model == MODEL
    with pytest.raises(UserError, match="--model other is not served; these are there: tiny"):
        engine(server, model="other")
    server.habits.models = ("a", "b")
    with pytest.raises(UserError, match="give --model: several are there: a, b"):
        engine(server)
    assert engine(server, model="b").model == "b"


def test_a_slow_server_is_given_up_on(server: CompletionsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "ATTEMPTS", 1)
    server.habits.seconds = 1.0
    with pytest.raises(UserError, match=r"no answer in 0.1 s; raise --request-timeout, or lower --batch-size"):
        drawn(server, GREEDY, ["a"], request_timeout=0.1)
