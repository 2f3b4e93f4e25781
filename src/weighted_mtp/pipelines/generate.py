"""Completions of anybody's prompts: one, a file of them, or typed one after the other.

uv run wmtp generate --checkpoint storage/runs/RUN --prompt "Write a function that adds two numbers."
uv run wmtp generate --checkpoint storage/runs/RUN --file prompts.jsonl --output completions.jsonl
uv run wmtp generate --checkpoint storage/runs/RUN                       typed on a terminal, or read from a pipe
uv run wmtp generate --base-url http://127.0.0.1:8000/v1 --prompt …      a server's
"""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from rich.console import Console
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from weighted_mtp.data.schema import Problem
from weighted_mtp.data.sources.rows import read_rows
from weighted_mtp.decoding.engine import Prompt
from weighted_mtp.decoding.rows import Completion
from weighted_mtp.decoding.sample import Drawn
from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.respondents import Respondent
from weighted_mtp.evaluation.samples import write_jsonl
from weighted_mtp.pipelines.config import GenerateConfig
from weighted_mtp.pipelines.inputs import trained_day
from weighted_mtp.pipelines.sampled_model import respondent_of, sampled_folder
from weighted_mtp.progress import progress

QUIT = ("exit", "quit")
_FURTHER_LINE = "\\"  # at the end of a line that is typed


def generate(config: GenerateConfig) -> None:
    """Complete what `config` names, or what is typed.

    Raises UserError for a file that holds no prompts, and whatever `SampledModel.respondent` and engines refuse.
    """
    given = _prompts(config)
    if config.show_drafts:
        sampling = config.sampling.model_copy(update={"draft": "heads"})
        config = config.model_copy(update={"sampling": sampling})
    model = sampled_folder(config)
    day = config.date or (trained_day(model) if model is not None else None)
    respondent = respondent_of(config, model, day, Path(gettempdir()))
    if given is None:
        _converse(config, respondent)
        return
    found = _complete(config, respondent, given, title="generating" if len(given) > 1 else None)
    tokenizer = respondent.tokenizer if config.show_drafts else None
    if config.output is not None:
        write_jsonl(config.output, (_record(given, one) for one in found))
    else:
        _show(found, tokenizer)


def _prompts(config: GenerateConfig) -> list[str] | None:
    """The prompts that are given; None if they are to be typed."""
    if config.prompt is not None:
        return [config.prompt]
    if config.file is not None:
        return _read(config.file)
    if sys.stdin.isatty():
        if config.output is not None:
            raise UserError("--output has no effect on typed prompts: give --prompt or --file, or leave it out")
        return None
    text = sys.stdin.read()
    if not text.strip():
        raise UserError("standard input is empty: give --prompt or --file, or type prompts on a terminal")
    return [text]


def _read(file: Path) -> list[str]:
    if file.suffix != ".jsonl":
        try:
            return [file.read_text(encoding="utf-8")]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--file {file}: cannot be read as text ({error}); give a text or .jsonl file") from error
    prompts = []
    for row in read_rows(file, {}):
        if not isinstance(row.values.get("prompt"), str):
            raise UserError(f"{row.where}: no key prompt with a text; it has {sorted(row.values)}")
        prompts.append(row.values["prompt"])
    return prompts


def _complete(
    config: GenerateConfig, respondent: Respondent, prompts: Sequence[str], title: str | None = None
) -> list[Drawn]:
    """All completions, prompt by prompt."""
    asked = [_asked(respondent, text, f"prompt {number}") for number, text in enumerate(prompts, 1)]
    total = len(asked) * config.sampling.n_samples
    size = respondent.engine.unit(config.sampling, len(asked))
    names = [f"prompt {number}" for number in range(1, len(prompts) + 1)]
    with progress(title, total) if title is not None else nullcontext() as advance:
        units = respondent.engine.draw(asked, config.sampling, range(-(-total // size)), advance, names)
        found = [one for _, unit in units for one in unit]
    return sorted(found, key=lambda one: (one.prompt, one.sample))


def _asked(respondent: Respondent, text: str, name: str) -> Prompt:
    """A text as the template asks it; `plain` continues it where it ends."""
    if respondent.template == "plain":
        return respondent.continued(text, name)
    return respondent.asked(Problem(name, "generate", "test", text))


def _converse(config: GenerateConfig, respondent: Respondent) -> None:
    """Complete each prompt that is typed, by itself, until the input ends."""
    console = Console()
    console.print(f"a prompt a line; {_FURTHER_LINE} at its end for a further line; exit, quit or Ctrl-D to leave")
    for text in _typed():
        try:
            _show(_complete(config, respondent, [text]), respondent.tokenizer if config.show_drafts else None)
        except UserError as error:
            print(f"error: {error}")


def _typed() -> Iterator[str]:
    lines: list[str] = []
    while True:
        try:
            line = input("… " if lines else "> ")
        except EOFError:
            return
        if not lines and line.strip() in QUIT:
            return
        lines.append(line.removesuffix(_FURTHER_LINE))
        if not line.endswith(_FURTHER_LINE):
            text = "\n".join(lines)
            lines = []
            if text.strip():
                yield text


def _record(prompts: Sequence[str], one: Drawn) -> dict[str, Any]:
    completion = one.completion
    return {
        "prompt": prompts[one.prompt],
        "sample": one.sample,
        "text": completion.text,
        "tokens": completion.n_tokens,
        "finished": completion.finished,
    }


def _show(found: Sequence[Drawn], tokenizer: PreTrainedTokenizerBase | None) -> None:
    """One completion as it is; of several, each under a line that says which it is; drafts with a tokenizer."""
    for one in found:
        if len(found) > 1:
            ended = f"{one.completion.finished}, {one.completion.n_tokens} tokens"
            print(f"--- prompt {one.prompt + 1}, sample {one.sample + 1}: {ended}")
        print(one.completion.text, flush=True)
        if tokenizer is not None:
            Console().print(drafts_of(one.completion, tokenizer), soft_wrap=True)


def drafts_of(completion: Completion, tokenizer: PreTrainedTokenizerBase) -> Text:
    """A line for each pass: the drafts that head 1 accepted (+) and its own token (=), then those it did not (-)."""
    passes = completion.drafted
    accepted = sum(one.n_accepted for one in passes)
    drafted = sum(len(one.drafts) for one in passes)
    lines = Text(f"{len(passes)} passes; {accepted} of {drafted} drafts accepted\n", style="dim")
    for number, one in enumerate(passes, 1):
        lines.append(f"{number:4}", style="dim")
        for sign, style, tokens in (
            ("+", "green", one.tokens[:-1]),
            ("=", "bold", one.tokens[-1:]),
            ("-", "red", one.drafts[one.n_accepted :]),
        ):
            for token in tokens:
                lines.append(f" {sign}{json.dumps(tokenizer.decode([token]), ensure_ascii=False)}", style=style)
        lines.append("\n")
    lines.rstrip()
    return lines
