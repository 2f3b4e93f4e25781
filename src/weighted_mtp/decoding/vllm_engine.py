"""Sampling with vLLM, which is installed beside this package, from an ordinary causal LM's folder."""

import importlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, final

from weighted_mtp.decoding.config import SamplingConfig
from weighted_mtp.decoding.engine import Engine, Prompt, numbered, token_ids
from weighted_mtp.decoding.rows import Completion, Finished
from weighted_mtp.decoding.sample import Drawn
from weighted_mtp.decoding.server import seed_of
from weighted_mtp.errors import UserError, first_line

_BATCHES_PER_CALL = 8  # vLLM keeps itself full with these, and a kill loses no more


@final
class VllmEngine(Engine):
    """A model in vLLM's hands.

    folder      an ordinary causal LM with its tokenizer
    batch_size  completions in progress at a time
    context     positions of the model, None if its configuration does not say
    ends        tokens that end a completion

    Every sample has a seed of its own, so another number of samples changes none of those before; vLLM's arithmetic
    depends on what runs beside a sample, so a repetition may differ where two tokens are nearly as likely.

    Raises UserError if vLLM is not installed or refuses the model.
    """

    def __init__(
        self,
        folder: Path,
        dtype: str,
        batch_size: int,
        context: int | None,
        ends: set[int],
    ) -> None:
        self._context, self._ends = context, ends
        self._vllm = imported()
        try:
            self._llm = self._vllm.LLM(
                model=str(folder),
                dtype=dtype,
                max_num_seqs=batch_size,
                enable_prefix_caching=True,
                generation_config="vllm",  # the options decide, not what the model's folder recommends
            )
        except (ValueError, RuntimeError, OSError, NotImplementedError) as error:
            raise UserError(
                f"--engine vllm: it does not take {folder} ({first_line(error)}); leave the option out"
            ) from error

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
        parameters = {number: self._parameters(ids, options, number, named) for number in chosen}
        size = _BATCHES_PER_CALL * options.batch_size
        for start in range(0, len(chosen), size):
            numbers = chosen[start : start + size]
            outputs = self._llm.generate(
                [{"prompt_token_ids": ids[numbered(number, options)[0]]} for number in numbers],
                [parameters[number] for number in numbers],
                use_tqdm=False,
            )
            for number, output in zip(numbers, outputs, strict=True):
                prompt, sample = numbered(number, options)
                yield number, [Drawn(prompt, sample, _completion(output.outputs[0]))]
                if on_progress is not None:
                    on_progress(1)

    def _parameters(
        self, prompts: Sequence[list[int]], options: SamplingConfig, number: int, names: Sequence[str]
    ) -> Any:
        """vLLM's SamplingParams of one completion. Raises UserError for a prompt that leaves no room for a token."""
        prompt, sample = numbered(number, options)
        length = len(prompts[prompt])
        room = options.max_new_tokens if self._context is None else min(options.max_new_tokens, self._context - length)
        if room < 1:
            raise UserError(
                f"{names[prompt]}: {length} tokens do not fit the model's context of {self._context}; shorten it"
            )
        return self._vllm.SamplingParams(
            n=1,
            temperature=options.temperature,
            top_p=options.top_p,
            max_tokens=room,
            stop=list(options.stop),
            stop_token_ids=sorted(self._ends),
            seed=seed_of(options.seed, prompt, sample),
        )


def imported() -> Any:
    """vLLM. Raises UserError that says how to install it where it cannot be imported."""
    try:
        return importlib.import_module("vllm")
    except ImportError as error:
        raise UserError(
            f"--engine vllm: vLLM cannot be imported ({first_line(error)}); install it beside this package with "
            "`uv pip install vllm`, or leave the option out"
        ) from error


def _completion(output: Any) -> Completion:
    finished: Finished = "length"
    if output.finish_reason == "stop":
        finished = "stop" if isinstance(output.stop_reason, str) else "eos"
    return Completion(output.text, len(output.token_ids), finished)
