"""Prompt templates, and the border between prompt and response.

The loss counts response tokens only, and at sampling time a model sees only the prompt's tokens. Both need the
same border, so prompt and response are tokenized apart and joined: no token can then span the border, and
`encode_prompt(prompt)` is a prefix of the training example by construction. What is left to get right is that the
response's tokens are those of a *continuation*: SentencePiece puts a dummy prefix '▁' before any text it is given,
which would put a space into the middle of the sample.
"""

import datetime
import functools
import json
import operator
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from weighted_mtp.data.schema import Problem, Solution, Span, SpanKind
from weighted_mtp.data.template import TEMPLATES
from weighted_mtp.errors import UserError, first_line

_ALPACA = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)  # the text of Taori et al. 2023 (Stanford Alpaca), in its form without an input

# Texts that a response is tokenized after, tried in turn. "\n" is how templates end; where a response begins with
# white space or letters that merge with one of them, another of a different character class does not merge.
_ANCHORS = ("\n", "a", "1", ".", "(")

# Before a chat template, in the place of the function of this name, which would read the clock. A template is given
# plain data and no functions.
_STRFTIME_NOW = (
    "{%- macro strftime_now(format) -%}{%- set date = namespace(text=format) -%}"
    "{%- for directive, text in parts_of_today.items() -%}{%- set date.text = date.text.replace(directive, text) -%}"
    "{%- endfor -%}{{- date.text -}}{%- endmacro %}\n"
)
_DIRECTIVE = re.compile(r"%[-_^#0]?[A-Za-z]")

_SAMPLE_PROGRAM = "def f(x):\n    if x:\n\treturn  x"


MARKS: dict[SpanKind, int] = {"semantic": 1, "wrong": 2}
"""Bits of a token that overlaps a span of that kind."""


@dataclass(frozen=True)
class Example:
    """Token ids of a prompt and its response; the response is `input_ids[response_start:]` and ends with EOS.

    marks  for every token the bits of `MARKS`; all 0 if the truth is not known
    """

    input_ids: list[int]
    response_start: int
    marks: bytes


def names_a_date(template: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether prompts may name the current date, as those of Llama 3.2's chat template do."""
    return template == "chat" and "strftime_now" in str(tokenizer.chat_template)


def _parts_of(day: datetime.date, template: str) -> dict[str, str]:
    """What each of strftime's directives in a chat template stands for, at the beginning of a day."""
    midnight = datetime.datetime.combine(day, datetime.time())
    return {directive: midnight.strftime(directive) for directive in _DIRECTIVE.findall(template)}


def render_prompt(
    template: str, problem: Problem, tokenizer: PreTrainedTokenizerBase | None, day: datetime.date | None = None
) -> str:
    """The text that a model is given for a problem.

    `alpaca` and `chat` carry the same instruction: description, code to complete, public tests. `plain` is the bare
    description and a newline, or the code to complete: a response then continues where that code ends, while it holds
    the whole program under the other two.

    tokenizer  only needed for `chat`, whose template it holds
    day        what a chat template takes for today; today where not given

    Raises UserError for an unknown template, `chat` with a tokenizer that has no chat template, or one that fails.
    """
    if template == "alpaca":
        return _ALPACA.format(instruction=instruction_of(problem))
    if template == "plain":
        return _plain(problem)
    if template == "chat":
        assert tokenizer is not None
        if not tokenizer.chat_template:
            raise UserError(
                f"template 'chat': the tokenizer {tokenizer.name_or_path!r} has no chat template; use 'alpaca'"
            )
        return _chat(tokenizer, instruction_of(problem), day)
    raise UserError(f"template {template!r} is unknown: choose one of {', '.join(TEMPLATES)}")


def _chat(tokenizer: PreTrainedTokenizerBase, instruction: str, day: datetime.date | None) -> str:
    """The tokenizer's own template around one message. Raises UserError for whatever a template does wrong."""
    try:
        message = {"role": "user", "content": instruction}
        template = tokenizer.get_chat_template()
        text = tokenizer.apply_chat_template(
            [message],
            chat_template=_STRFTIME_NOW + template if names_a_date("chat", tokenizer) else template,
            tokenize=False,
            add_generation_prompt=True,
            parts_of_today=_parts_of(day or datetime.date.today(), template),
        )
    except Exception as error:  # a template is a program: it may raise anything
        reason = first_line(error)
        raise UserError(
            f"template 'chat': the chat template of the tokenizer {tokenizer.name_or_path!r} fails for one user message"
            f" ({reason}); use 'alpaca', or fix its chat_template"
        ) from error
    assert isinstance(text, str)
    return text


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    name: str = "a prompt",
    special_tokens: bool = True,
) -> list[int]:
    """Token ids of a prompt, with BOS if the tokenizer puts one by default and never EOS.

    special_tokens  whether those that the prompt spells become special tokens, as a chat template wants it; else they
                    are text like any other

    A chat template writes BOS as text: then the tokenizer does not add a second one.

    Raises UserError if the prompt is empty (`name` says whose prompt it is).
    """
    bos = tokenizer.bos_token if special_tokens else None
    add_bos = not (bos and prompt.startswith(bos))
    ids = tokenizer.encode(prompt, add_special_tokens=add_bos, split_special_tokens=not special_tokens)
    spelled = special_tokens and prompt.endswith(tokenizer.eos_token or "\0")
    if ids and ids[-1] == tokenizer.eos_token_id and not spelled:
        ids = ids[:-1]  # some tokenizers close every text that they are given
    if not ids or not prompt:
        raise UserError(f"{name} is empty: a model needs at least one token to continue")
    return ids


def encode_example(
    tokenizer: PreTrainedTokenizerBase, prompt: str, response: str, spans: Sequence[Span] = ()
) -> Example:
    """Token ids of prompt, response and EOS; `input_ids[:response_start] == encode_prompt(tokenizer, prompt)`.

    spans  characters of the response whose tokens are marked

    Raises UserError if the tokenizer has no EOS, the prompt is empty, or the response cannot be told from its prompt.
    """
    return _join(encode_prompt(tokenizer, prompt), *encode_responses(tokenizer, [response], [spans])[0])


def encode_solutions(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    problems: Iterable[Problem],
    solutions: Iterable[Solution],
    day: datetime.date | None = None,
) -> Iterator[tuple[str, Example]]:
    """(solution_id, example) of every solution, in order; a problem's prompt is tokenized once.

    day  as of `render_prompt`

    Raises UserError as `render_prompt` and `encode_example`, when a solution's problem is not among `problems`, or
    for a tokenizer that does not keep a program's white space.
    """
    require_white_space(tokenizer)
    by_id = {problem.problem_id: problem for problem in problems}
    prompts: dict[str, list[int]] = {}
    for solution in solutions:
        problem = by_id.get(solution.problem_id)
        if problem is None:
            raise UserError(
                f"solution {solution.solution_id!r} is of problem {solution.problem_id!r}, which is not in its split"
            )
        if problem.problem_id not in prompts:
            prompts[problem.problem_id] = encode_problem(tokenizer, template, problem, day)
        (response,) = encode_responses(tokenizer, [solution.code], [solution.spans])
        yield solution.solution_id, _join(prompts[problem.problem_id], *response)


def encode_problem(
    tokenizer: PreTrainedTokenizerBase, template: str, problem: Problem, day: datetime.date | None = None
) -> list[int]:
    """Token ids of a problem's prompt, in which only a chat template adds special tokens: HTML's `<s>` is text.

    day  as of `render_prompt`

    Raises UserError as `render_prompt` and `encode_prompt`.
    """
    name = f"the prompt of {problem.problem_id}"
    text = render_prompt(template, problem, tokenizer, day)
    if template != "chat":
        return encode_prompt(tokenizer, text, name=name, special_tokens=False)
    instruction = instruction_of(problem)
    spelled = [token for token in _special_tokens(tokenizer) if token in instruction]
    if not spelled:
        return encode_prompt(tokenizer, text, name=name)
    return _encode_quoting(tokenizer, instruction, spelled, day)


def _encode_quoting(
    tokenizer: PreTrainedTokenizerBase, instruction: str, spelled: Sequence[str], day: datetime.date | None
) -> list[int]:
    """Token ids of a chat prompt whose instruction spells special tokens.

    The template gets the instruction with a private character for each of them, so that every special token in its text
    is its own. Between these, stretches are tokenized as they always are, but for those that hold such a character:
    there it becomes the spelling again, as text.
    """
    free = (chr(code) for code in range(0xF0000, 0xFFFFE) if chr(code) not in instruction)
    veils = dict(zip(spelled, free, strict=False))
    for token, veil in veils.items():
        instruction = instruction.replace(token, veil)
    numbers = _special_tokens(tokenizer)
    special = "|".join(map(re.escape, numbers))
    ids: list[int] = []
    before = ""  # the special token that a stretch follows
    for part in re.split(f"({special})", _chat(tokenizer, instruction, day)):
        if re.fullmatch(special, part):
            before = part
            ids.append(numbers[part])
        elif any(veil in part for veil in veils.values()):
            text = part
            for token, veil in veils.items():
                text = text.replace(veil, token)
            if before:
                ((inner, _),) = encode_responses(tokenizer, [text], [()])
                ids += inner[:-1]
            else:
                ids += encode_prompt(tokenizer, text, special_tokens=False)
        elif part:
            inner = encode_prompt(tokenizer, before + part)
            ids += inner[inner.index(numbers[before]) + 1 :] if before else inner
    return ids


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """As texts spell them → id, the longest first."""
    found = {token.content: number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return dict(sorted(found.items(), key=lambda item: -len(item[0])))


def encode_responses(
    tokenizer: PreTrainedTokenizerBase, responses: Sequence[str], spans: Sequence[Sequence[Span]]
) -> list[tuple[list[int], bytes]]:
    """Token ids with EOS, and marks, of each response: all at once, on all cores, however many there are.

    Each is tokenized after an anchor text whose own tokens stay as they are, and cut there.

    Raises UserError if the tokenizer has no EOS, or a response cannot be told from its prompt.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer {tokenizer.name_or_path!r} has no EOS token: set tokenizer.eos_token")
    found: dict[int, tuple[list[int], bytes]] = {}
    for anchor in _ANCHORS:
        left = [i for i in range(len(responses)) if i not in found]
        if not left:
            break
        # A program that contains "</s>" as text must not end there: special tokens are spelled out.
        head = tokenizer.encode(anchor, add_special_tokens=False, split_special_tokens=True)
        both = tokenizer(
            [anchor + responses[i] for i in left],
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=any(spans[i] for i in left),
            verbose=False,
        )
        for place, i in enumerate(left):
            ids: list[int] = both["input_ids"][place]
            if ids[: len(head)] == head:
                offsets = both["offset_mapping"][place][len(head) :] if spans[i] else []
                marks = bytes(_marks(start - len(anchor), end - len(anchor), spans[i]) for start, end in offsets)
                found[i] = ([*ids[len(head) :], tokenizer.eos_token_id], marks.ljust(len(ids) - len(head) + 1, b"\0"))
    for i, response in enumerate(responses):
        if i not in found:
            raise UserError(
                f"the tokenizer {tokenizer.name_or_path!r} merges the start of the response "
                f"{json.dumps(response[:20])} with whatever comes before it, so that the loss cannot start there: "
                "use another tokenizer"
            )
    return [found[i] for i in range(len(responses))]


def decode_response(tokenizer: PreTrainedTokenizerBase, prompt_ids: list[int], response_ids: list[int]) -> str:
    """Text that `response_ids` add to their prompt's; special tokens are left out.

    Decoding only the response would lose the leading space of a SentencePiece '▁', so both are decoded.
    """
    before = tokenizer.decode(prompt_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    whole = tokenizer.decode([*prompt_ids, *response_ids], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(before, str)
    assert isinstance(whole, str)
    return whole[len(before) :]


def require_white_space(tokenizer: PreTrainedTokenizerBase) -> None:
    """Many tokenizers for prose fold white space, after which no program has its indentation: a UserError then."""
    sample = encode_example(tokenizer, "Task:\n", _SAMPLE_PROGRAM)
    ids, border = sample.input_ids, sample.response_start
    if decode_response(tokenizer, ids[:border], ids[border:]) != _SAMPLE_PROGRAM:
        raise UserError(
            f"the tokenizer {tokenizer.name_or_path!r} does not keep line breaks and indentation, without which a "
            "program is lost: use a model with a tokenizer for code"
        )


def _join(prompt_ids: list[int], response_ids: list[int], response_marks: bytes) -> Example:
    return Example([*prompt_ids, *response_ids], len(prompt_ids), bytes(len(prompt_ids)) + response_marks)


def _marks(start: int, end: int, spans: Sequence[Span]) -> int:
    """Bits of a token that covers the response's characters [start, end)."""
    return functools.reduce(
        operator.or_, (MARKS[span.kind] for span in spans if start < span.end and span.start < end), 0
    )


def _plain(problem: Problem) -> str:
    if problem.starter:
        return problem.starter if _starter_says_it(problem) else f"{problem.description}\n{problem.starter}"
    return f"{problem.description}\n"


def instruction_of(problem: Problem) -> str:
    """What `alpaca` and `chat` say: description, code to complete, public tests."""
    parts = []
    to_complete = problem.starter if f"def {problem.entry_point}" in problem.starter else ""
    if not (to_complete and _starter_says_it(problem)):
        parts.append(problem.description.strip())
    if to_complete:
        parts.append(f"Write the whole Python function that begins like this:\n\n{problem.starter.strip()}")
    shown = [test for test in problem.tests if test.is_shown]
    if shown:
        set_up = list(dict.fromkeys(test.input.strip() for test in shown if test.input.strip()))
        lines = [*set_up, *(test.output.strip() for test in shown)]
        parts.append("The code must pass these tests:\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _starter_says_it(problem: Problem) -> bool:
    """Whether the code to complete already holds the description, as HumanEval's docstrings do."""
    return " ".join(problem.description.split()) in " ".join(problem.starter.split())
