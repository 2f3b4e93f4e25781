"""What can be sampled from: a model in this process, the same model in vLLM, or one behind a server."""

import datetime
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase

from weighted_mtp.data.prompts import encode_problem, encode_prompt, instruction_of, render_prompt
from weighted_mtp.data.schema import Problem
from weighted_mtp.decoding.config import ServerConfig
from weighted_mtp.decoding.engine import Engine, Message, Prompt, TorchEngine
from weighted_mtp.decoding.rows import end_tokens
from weighted_mtp.decoding.server import ServerEngine
from weighted_mtp.decoding.vllm_engine import VllmEngine, imported
from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.benchmarks import AnswerForm
from weighted_mtp.models.adapters import holds_adapters
from weighted_mtp.models.card import ModelOrigin
from weighted_mtp.models.checkpoint import Dtype, check_embedded, load_tokenizer, read_config, run_of
from weighted_mtp.models.convert import find_model, load_base, without_heads, write_model
from weighted_mtp.models.mtp import MTPConfig
from weighted_mtp.runtime.distributed import ranks


@dataclass(frozen=True)
class Respondent:
    """What is asked: an engine, the template of its prompts, the tokenizer that renders or encodes them, and what a
    chat template takes for today.

    Without a tokenizer, which only a server can do without, `chat` is the server's own template.
    """

    engine: Engine
    template: str
    tokenizer: PreTrainedTokenizerBase | None
    day: datetime.date | None = None

    @property
    def form(self) -> AnswerForm:
        """How its answers are to be read."""
        return AnswerForm.COMPLETION if self.template == "plain" else AnswerForm.CHAT

    def asked(self, problem: Problem) -> Prompt:
        """A problem as the template asks it. Raises UserError as `encode_problem` and `check_embedded`."""
        if self.engine.takes_text:
            return self._text(problem)
        assert self.tokenizer is not None
        ids = encode_problem(self.tokenizer, self.template, problem, self.day)
        return self._embedded(ids, f"the prompt of {problem.problem_id}")

    def continued(self, text: str, name: str) -> Prompt:
        """A text to be continued as it is. Raises UserError as `encode_prompt`; `name` says whose it is."""
        if self.engine.takes_text:
            return text
        assert self.tokenizer is not None
        return self._embedded(encode_prompt(self.tokenizer, text, name=name, special_tokens=False), name)

    def _embedded(self, ids: list[int], name: str) -> list[int]:
        if isinstance(self.engine, TorchEngine):
            assert self.tokenizer is not None
            check_embedded(self.engine.model, self.tokenizer, lambda: max(ids), name)
        return ids

    def _text(self, problem: Problem) -> str | Message:
        """A prompt for a server, which tokenizes it, and puts BOS before it if that is what its tokenizer does."""
        if self.template == "chat" and self.tokenizer is None:
            return Message(instruction_of(problem))
        text, tokenizer = render_prompt(self.template, problem, self.tokenizer, self.day), self.tokenizer
        if tokenizer is not None and tokenizer.bos_token and tokenizer.encode("")[:1] == [tokenizer.bos_token_id]:
            return text.removeprefix(tokenizer.bos_token)
        return text


def load_respondent(
    source: Path, template: str | None, dtype: Dtype, device: torch.device, day: datetime.date | None = None
) -> Respondent:
    """The model at `source`, asked as its run was trained where no template is given, else `chat` or `alpaca`.

    day  what a chat template takes for today; today where not given

    Raises UserError as `load_base`.
    """
    model, tokenizer = load_base(str(source), dtype)
    model.to(device).eval()  # type: ignore[arg-type]
    return Respondent(TorchEngine(model, tokenizer), _template(source, template, tokenizer), tokenizer, day)


@contextmanager
def vllm_respondent(
    source: Path, template: str | None, dtype: str, batch_size: int, scratch: Path, day: datetime.date | None = None
) -> Iterator[Respondent]:
    """The model at `source` in vLLM, which reads ordinary causal LMs: of anything else the plain export is made.

    scratch  folder for that export, which takes the model's size until this ends

    Raises UserError as `load_base`, where vLLM is not installed or refuses the model, and on several ranks.
    """
    imported()
    if ranks() > 1:
        raise UserError("--engine vllm: vLLM uses all GPUs from one process; start it without torchrun")
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".plain-") as place:
        folder = source if _is_plain(source) else _export(source, dtype, Path(place) / "plain")
        tokenizer = load_tokenizer(folder)
        positions = getattr(AutoConfig.from_pretrained(folder), "max_position_embeddings", None)
        engine = VllmEngine(folder, dtype, batch_size, positions, end_tokens(_generation(folder), tokenizer))
        yield Respondent(engine, _template(source, template, tokenizer), tokenizer, day)


def served_respondent(config: ServerConfig, template: str | None, day: datetime.date | None = None) -> Respondent:
    """The model behind a server, asked as `chat` where no template is given.

    Raises UserError as `ServerEngine`, and for a tokenizer that is not there.
    """
    tokenizer = None if config.tokenizer is None else load_tokenizer(tokenizer_folder(config.tokenizer))
    return Respondent(ServerEngine(config), template or "chat", tokenizer, day)


def tokenizer_folder(source: str) -> Path:
    """The folder of a tokenizer, or of a model that has one. Raises UserError as `find_model`."""
    folder = Path(source).expanduser()
    return folder if (folder / "tokenizer_config.json").is_file() else find_model(source)


def _template(source: Path, template: str | None, tokenizer: PreTrainedTokenizerBase) -> str:
    """The template that is given, else that of the model's run, else `chat` or `alpaca`."""
    return template or _trained_template(source) or ("chat" if tokenizer.chat_template else "alpaca")


def _trained_template(source: Path) -> str | None:
    """The template of the run that `source` (the run, or something in it) belongs to."""
    run = run_of(source)
    return None if run is None else yaml.safe_load((run / "config.yaml").read_text())["data"]["template"]


def _is_plain(source: Path) -> bool:
    if source.is_file() or holds_adapters(source):
        return False
    return read_config(source).get("model_type") != MTPConfig.model_type


def _export(source: Path, dtype: Dtype, output: Path) -> Path:
    model, tokenizer = load_base(str(source), dtype)
    write_model(without_heads(model), tokenizer, output, ModelOrigin(source.name, "The plain export, for vLLM."))
    return output


def _generation(folder: Path) -> GenerationConfig | None:
    there = (folder / "generation_config.json").is_file()
    return GenerationConfig.from_pretrained(folder) if there else None
