"""Sampling with vLLM, which is installed beside this package, from an ordinary causal LM's folder."""

import importlib
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import Any, final

import yaml
from pydantic import ValidationError
from transformers import PreTrainedTokenizerBase

from weighted_mtp.decoding.config import SamplingConfig
from weighted_mtp.decoding.engine import Engine, Prompt, numbered, token_ids
from weighted_mtp.decoding.rows import Finished, Row, Text
from weighted_mtp.decoding.sample import Drawn
from weighted_mtp.decoding.server import seed_of
from weighted_mtp.errors import UserError, first_line
from weighted_mtp.runtime.distributed import ranks

_IN_HAND = 2  # completions that vLLM has been given for each that may be in progress, so that it never lacks one
_LOOK_SECONDS = 5.0  # between looks whether its processes are there
_OF_GROUP = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


@final
class VllmEngine(Engine):
    """A model in vLLM's hands.

    folder      an ordinary causal LM
    tokenizer   which makes texts of its tokens, as of this process' own
    batch_size  completions in progress at a time
    context     positions of the model, None if its configuration does not say
    ends        tokens that end a completion
    arguments   further ones of vLLM's engine, as `name=value`, the value as YAML has it

    Every sample has a seed of its own, so another number of samples changes none of those before; vLLM's arithmetic
    depends on what runs beside a sample, so a repetition may differ where two tokens are nearly as likely.

    Raises UserError if vLLM is not installed, refuses the model or an argument, or does not start.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        dtype: str,
        batch_size: int,
        context: int | None,
        ends: set[int],
        arguments: Sequence[str] = (),
    ) -> None:
        self._tokenizer, self._size, self._context, self._ends = tokenizer, batch_size, context, ends
        self._vllm = imported()
        own = {
            "model": str(folder),
            "dtype": dtype,
            "max_num_seqs": batch_size,
            "enable_prefix_caching": True,
            "generation_config": "vllm",  # the options decide, not what the model's folder recommends
        }
        others = multiprocessing.active_children()
        given = _for_this_machine() | _parsed(arguments, own)
        try:
            with _on_its_own():
                self._llm = self._vllm.LLM(**own, **given)
        except Exception as error:  # of many kinds, some vLLM's own
            raise UserError(
                f"--engine vllm: vLLM does not start ({_reason(error)}); what it wrote above may say why. If it "
                "lacks memory, give it less with --vllm-args kv_cache_memory_bytes=BYTES; or leave --engine out"
            ) from error
        self._processes = [process for process in multiprocessing.active_children() if process not in others]

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
        ids = token_ids(prompts)
        named = [f"prompt {p}" for p in range(len(ids))] if names is None else names
        rows = {}
        for number in chosen:
            prompt, sample = numbered(number, options)
            rows[number] = Row.of(prompt, sample, named[prompt], ids[prompt], options.max_new_tokens, self._context)
        text = Text(self._tokenizer, options.stop, self._ends)
        for number, output in self._finished(rows.items(), options):
            row = rows[number]
            row.tokens = list(output.token_ids)
            yield number, [Drawn(row.prompt, row.sample, text.completion(row, _how(output)))]
            if on_progress is not None:
                on_progress(1)

    def _finished(self, rows: Iterable[tuple[int, Row]], options: SamplingConfig) -> Iterator[tuple[int, Any]]:
        """What vLLM made of each row, as it is finished, with its number. Raises UserError if vLLM stops."""
        coming = iter(rows)
        numbers: dict[str, int] = {}  # of those in vLLM's hands, by its name for them
        while True:
            try:
                for number, row in islice(coming, _IN_HAND * self._size - len(numbers)):
                    prompt, parameters = {"prompt_token_ids": row.prompt_ids}, self._parameters(row, options)
                    names = self._llm.enqueue([prompt], [parameters], use_tqdm=False)
                    numbers[names[0].partition("-")[0]] = number  # outputs are named without what follows
                if not numbers:
                    return
                outputs = [output for output in self._step() if output.finished]
            except Exception as error:  # of many kinds, some vLLM's own
                raise UserError(
                    f"--engine vllm: vLLM stopped ({first_line(error)}); what it wrote above may say why; the same "
                    "command resumes with the samples that are there"
                ) from error
            for output in outputs:
                yield numbers.pop(output.request_id), output.outputs[0]

    def _step(self) -> list[Any]:
        """One of vLLM's steps. RuntimeError if a process that it started is gone: vLLM itself would wait forever."""
        stepped: Future[list[Any]] = Future()
        Thread(target=_settle, args=(stepped, self._llm.llm_engine.step), daemon=True).start()
        while True:
            try:
                return stepped.result(timeout=_LOOK_SECONDS)
            except TimeoutError:
                if stepped.done():
                    raise
                if gone := [process.name for process in self._processes if not process.is_alive()]:
                    raise RuntimeError(f"its process {gone[0]} was killed, perhaps for lack of memory") from None

    def _parameters(self, row: Row, options: SamplingConfig) -> Any:
        """vLLM's SamplingParams of one completion."""
        return self._vllm.SamplingParams(
            n=1,
            temperature=options.temperature,
            top_p=options.top_p,
            max_tokens=row.budget,
            stop=list(options.stop),
            stop_token_ids=sorted(self._ends),
            seed=seed_of(options.seed, row.prompt, row.sample),
            detokenize=bool(options.stop),  # for which vLLM looks in its own text
            output_kind=self._vllm.sampling_params.RequestOutputKind.FINAL_ONLY,
        )


def _settle(future: "Future[list[Any]]", call: Callable[[], list[Any]]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:  # of many kinds; whoever waits raises it
        future.set_exception(error)


def imported() -> Any:
    """vLLM, told to write errors only where nothing else is set.

    Raises UserError that says how to install it where it cannot be imported.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    try:
        return importlib.import_module("vllm")
    except ImportError as error:
        raise UserError(
            f"--engine vllm: vLLM cannot be imported ({first_line(error)}); install it beside this package with "
            "`uv pip install vllm`, or leave the option out"
        ) from error


def _for_this_machine() -> dict[str, Any]:
    """Arguments that a CPU needs: where a prompt is read in parts, vLLM rewinds the sample's generator, and a CPU's
    cannot be."""
    on_cpu = importlib.import_module("vllm.platforms").current_platform.is_cpu()
    return {"enable_chunked_prefill": False} if on_cpu else {}


def _reason(error: Exception) -> str:
    """An error of vLLM's in a line; of an argument that it does not take, the argument and why."""
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
    return first_line(error)


def _parsed(arguments: Sequence[str], own: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name. Raises UserError for what is none, and for those that other options decide."""
    given = {}
    for argument in arguments:
        name, sign, value = argument.partition("=")
        if not sign or not name.isidentifier():
            raise UserError(f"--vllm-args {argument}: give NAME=VALUE, as in gpu_memory_utilization=0.5")
        if name in own:
            raise UserError(f"--vllm-args {argument}: {name} follows from this command's other options; leave it out")
        given[name] = yaml.safe_load(value)
    return given


@contextmanager
def _on_its_own() -> Iterator[None]:
    """For a vLLM of one rank among several: it sees that rank's GPU, and nothing of the ranks' group."""
    if ranks() == 1:
        yield
        return
    local = int(os.environ["LOCAL_RANK"])
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    os.environ["CUDA_VISIBLE_DEVICES"] = visible[local] if visible else str(local)
    group = {name: os.environ.pop(name) for name in _OF_GROUP if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(group)


def _how(output: Any) -> Finished:
    if output.finish_reason != "stop":
        return "length"
    return "stop" if isinstance(output.stop_reason, str) else "eos"
