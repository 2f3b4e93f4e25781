"""Where completions are drawn: in this process (the reference), by vLLM, or by an OpenAI-compatible server."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from weighted_mtp.decoding.config import SamplingConfig
from weighted_mtp.decoding.sample import Drawn, sample_batches, unit_size


@dataclass(frozen=True)
class Message:
    """What a user says; a server puts it into its own chat template."""

    content: str


Prompt = list[int] | str | Message


class Engine(ABC):
    """A model that can be sampled.

    takes_text  whether its prompts are texts and messages, which a server tokenizes; else they are token ids
    """

    takes_text: ClassVar[bool] = False

    @abstractmethod
    def unit(self, options: SamplingConfig, n_prompts: int) -> int:
        """Completions that are drawn, kept and resumed together."""

    @abstractmethod
    def draw(
        self,
        prompts: Sequence[Prompt],
        options: SamplingConfig,
        chosen: Sequence[int],
        on_progress: Callable[[int], None] | None = None,
        names: Sequence[str] | None = None,
    ) -> Iterator[tuple[int, list[Drawn]]]:
        """The chosen units of `options.n_samples` completions of each prompt, in any order, each with its number.

        Which completions are a unit depends on prompts and options alone.

        on_progress  called with the number of completions finished since the last call
        names        of the prompts, for messages

        Raises UserError for prompts that cannot be completed, and for whatever keeps the engine from working.
        """


@final
class TorchEngine(Engine):
    """The sampler of `sample.py`: a completion depends on (seed, prompt, sample, position), whatever runs beside it."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer

    def unit(self, options: SamplingConfig, n_prompts: int) -> int:
        return unit_size(n_prompts, options)

    def draw(
        self,
        prompts: Sequence[Prompt],
        options: SamplingConfig,
        chosen: Sequence[int],
        on_progress: Callable[[int], None] | None = None,
        names: Sequence[str] | None = None,
    ) -> Iterator[tuple[int, list[Drawn]]]:
        batches = sample_batches(self.model, self.tokenizer, token_ids(prompts), options, chosen, on_progress, names)
        return zip(chosen, batches, strict=True)


def token_ids(prompts: Sequence[Prompt]) -> list[list[int]]:
    """The prompts of an engine that does not take texts."""
    assert all(isinstance(prompt, list) for prompt in prompts)
    return [prompt for prompt in prompts if isinstance(prompt, list)]


def numbered(unit: int, options: SamplingConfig) -> tuple[int, int]:
    """Prompt and sample of the unit of this number, of an engine whose units are single completions."""
    return divmod(unit, options.n_samples)
