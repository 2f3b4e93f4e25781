"""What can be sampled from: a model in this process, the same model in vLLM, or one behind a server."""

import datetime
import shutil
import tempfile
from collections.abc import Iterator, Sequence
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
from weighted_mtp.evaluation.benchmarks import AnswerForm
from weighted_mtp.models.adapters import holds_adapters
from weighted_mtp.models.card import ModelOrigin
from weighted_mtp.models.checkpoint import Dtype, check_embedded, load_tokenizer, read_config, run_of
from weighted_mtp.models.convert import find_model, load_base, without_heads, write_model
from weighted_mtp.models.mtp import MTPConfig
from weighted_mtp.progress import say
from weighted_mtp.runtime.distributed import agree, by_first_rank, is_first


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


def vllm_respondent(
    source: Path,
    template: str | None,
    dtype: str,
    batch_size: int,
    scratch: Path,
    day: datetime.date | None = None,
    arguments: Sequence[str] = (),
) -> Respondent:
    """The model at `source` in vLLM, which reads ordinary causal LMs: of anything else the plain export is made.

    Several ranks have a vLLM each, on a GPU of their own.

    scratch    folder for that export, made if it is missing; it takes the model's size until every vLLM has read it
    arguments  as `VllmEngine` takes them

    Raises UserError as `load_base` and `VllmEngine`.
    """
    imported()
    say("vLLM loads the model and compiles it, which may take minutes")
    with _plain(source, dtype, scratch) as folder, agree():
        tokenizer = load_tokenizer(folder)
        positions = getattr(AutoConfig.from_pretrained(folder), "max_position_embeddings", None)
        ends = end_tokens(_generation(folder), tokenizer)
        engine = VllmEngine(folder, tokenizer, dtype, batch_size, positions, ends, arguments)
    return Respondent(engine, _template(source, template, tokenizer), tokenizer, day)


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


@contextmanager
def _plain(source: Path, dtype: Dtype, scratch: Path) -> Iterator[Path]:
    """An ordinary causal LM's folder for all ranks: the model's own, or an export, which is there until this ends."""
    if _is_plain(source):
        yield source
        return
    place = by_first_rank(lambda: _made_in(scratch))
    try:
        with agree():
            if is_first():
                model, tokenizer = load_base(str(source), dtype)
                origin = ModelOrigin(source.name, "The plain export, for vLLM.")
                write_model(without_heads(model), tokenizer, place / "plain", origin)
        yield place / "plain"
    finally:
        if is_first():
            shutil.rmtree(place)


def _made_in(scratch: Path) -> Path:
    scratch.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=scratch, prefix=".plain-"))


def _generation(folder: Path) -> GenerationConfig | None:
    there = (folder / "generation_config.json").is_file()
    return GenerationConfig.from_pretrained(folder) if there else None
