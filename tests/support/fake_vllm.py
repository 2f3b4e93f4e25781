"""As much of vLLM as is used, without it."""

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class FakeVllm:
    """Stands in for the package. It answers with the token after the prompt's last one, three times, and finishes the
    newest of the requests that it has first.

    made        what the last `LLM` was made with
    parameters  of all requests, in order
    most        requests that it has had at a time
    dies_after  requests that it finishes before it breaks down
    hangs       whether it then gives no answer instead, until `released`
    """

    def __init__(self) -> None:
        self.made: dict[str, Any] = {}
        self.folder: list[str] = []
        self.parameters: list[SimpleNamespace] = []
        self.most = 0
        self.dies_after: int | None = None
        self.hangs, self.released = False, threading.Event()
        self.refuses: Exception | None = None
        self.sampling_params = SimpleNamespace(RequestOutputKind=SimpleNamespace(FINAL_ONLY="final"))
        self.platforms = SimpleNamespace(current_platform=SimpleNamespace(is_cpu=lambda: False))

    def SamplingParams(self, **options: Any) -> SimpleNamespace:
        return SimpleNamespace(**options)

    def LLM(self, **options: Any) -> "_Llm":
        if self.refuses is not None:
            raise self.refuses
        self.made = options
        self.folder = sorted(path.name for path in Path(options["model"]).iterdir())
        self.config = json.loads((Path(options["model"]) / "config.json").read_text())
        return _Llm(self)


@dataclass
class _Llm:
    package: FakeVllm
    has: dict[str, list[int]] = field(default_factory=dict)
    n_seen: int = 0
    n_finished: int = 0

    @property
    def llm_engine(self) -> "_Llm":
        return self

    def enqueue(self, prompts: list[dict[str, Any]], parameters: list[Any], use_tqdm: bool) -> list[str]:
        assert not use_tqdm
        names = [str(self.n_seen + i) for i in range(len(prompts))]
        self.n_seen += len(prompts)
        self.has |= {name: prompt["prompt_token_ids"] for name, prompt in zip(names, prompts, strict=True)}
        self.package.parameters += parameters
        self.package.most = max(self.package.most, len(self.has))
        return [f"{name}-1a2b3c4d" for name in names]

    def step(self) -> list[SimpleNamespace]:
        if self.n_finished == self.package.dies_after:
            if self.package.hangs:
                self.package.released.wait()
            raise RuntimeError("EngineCore encountered an issue.")
        self.n_finished += 1
        name, prompt = self.has.popitem()
        ids = [(prompt[-1] + 1) % 256] * 3
        answer = SimpleNamespace(token_ids=ids, finish_reason="stop", stop_reason=None)
        running = [SimpleNamespace(request_id=other, finished=False) for other in self.has]
        return [*running, SimpleNamespace(request_id=name, finished=True, outputs=[answer])]
