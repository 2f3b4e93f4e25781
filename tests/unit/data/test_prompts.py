"""The border between prompt and response, for every family of tokenizers, and what templates show."""

import copy
import datetime
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from weighted_mtp.data.prompts import (
    Example,
    decode_response,
    encode_example,
    encode_problem,
    encode_prompt,
    encode_solutions,
    names_a_date,
    render_prompt,
)
from weighted_mtp.data.schema import Problem, Solution, Span, TestCase, records
from weighted_mtp.data.sources import humaneval, mbpp
from weighted_mtp.data.template import TEMPLATES
from weighted_mtp.errors import UserError

PROBLEM = Problem("p", "micro", "train", "Return the sum of the list.", entry_point="solve")

# '▁' is SentencePiece's own sign for a space, which it cannot tell from one; lone surrogates are no text.
texts = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="▁"), max_size=40)
white_space = st.text(" \n\t", max_size=6)
responses = st.builds(
    lambda space, rest: space + rest, white_space, st.one_of(texts, st.just("def f(x):\n    return x\n"))
)
prompts = st.builds(
    lambda text, space: "x" + text + space, texts, st.one_of(white_space, st.just("\n\n### Response:\n"))
)


def _text(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """What the tokens say, without a leading BOS."""
    ids = ids[1:] if ids and ids[0] == tokenizer.bos_token_id else ids
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


@given(prompt=prompts, response=responses)
@example(prompt="### Response:\n", response="    return x")
@example(prompt="### Response:\n", response="\n\n\n\tdef f(): pass\n")
@example(prompt="### Response:", response=" 1 \u0301é\U0001f40d")
@example(prompt="x ", response=" y")
@settings(max_examples=150, deadline=None)
def test_the_border_is_exact(tokenizer: PreTrainedTokenizerBase, prompt: str, response: str) -> None:
    sample = encode_example(tokenizer, prompt, response)
    border = sample.response_start
    assert sample.input_ids[:border] == encode_prompt(tokenizer, prompt)
    assert _text(tokenizer, sample.input_ids[:border]) == prompt
    assert _text(tokenizer, sample.input_ids[:-1]) == prompt + response
    assert sample.input_ids[-1] == tokenizer.eos_token_id


@given(prompt=prompts, response=responses)
@example(prompt="x", response=" leading space")
@settings(max_examples=50, deadline=None)
def test_a_decoded_response_is_the_encoded_one(tokenizer: PreTrainedTokenizerBase, prompt: str, response: str) -> None:
    sample = encode_example(tokenizer, prompt, response)
    ids, border = sample.input_ids, sample.response_start
    assert decode_response(tokenizer, ids[:border], ids[border:]) == response


def test_a_response_that_spells_a_special_token_does_not_end_there(tokenizer: PreTrainedTokenizerBase) -> None:
    response = f"print('{tokenizer.eos_token}')"
    sample = encode_example(tokenizer, "x\n", response)
    assert sample.input_ids.count(tokenizer.eos_token_id) == 1
    assert _text(tokenizer, sample.input_ids[:-1]) == f"x\n{response}"


def test_no_dummy_prefix_stands_between_prompt_and_response(sentencepiece_tokenizer: PreTrainedTokenizerBase) -> None:
    sample = encode_example(sentencepiece_tokenizer, "### Response:\n", "def solve(xs):")
    tokens = sentencepiece_tokenizer.convert_ids_to_tokens(sample.input_ids[sample.response_start :])
    assert tokens[0][0] == "d"


def test_bos_comes_once_where_the_tokenizer_puts_it(sentencepiece_tokenizer: PreTrainedTokenizerBase) -> None:
    bos = sentencepiece_tokenizer.bos_token_id
    assert encode_prompt(sentencepiece_tokenizer, "hello").count(bos) == 1
    assert encode_prompt(sentencepiece_tokenizer, f"{sentencepiece_tokenizer.bos_token}hello").count(bos) == 1


def test_no_bos_where_the_tokenizer_puts_none(micro_tokenizer: PreTrainedTokenizerFast) -> None:
    assert encode_prompt(micro_tokenizer, "a") == micro_tokenizer.encode("a", add_special_tokens=False)


def test_a_tokenizer_without_eos_is_refused(micro_tokenizer: PreTrainedTokenizerFast) -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=micro_tokenizer.backend_tokenizer)
    with pytest.raises(UserError, match="has no EOS token"):
        encode_example(bare, "x\n", "y")


def test_an_empty_prompt_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError, match="the prompt of p is empty"):
        encode_prompt(tokenizer, "", name="the prompt of p")


def test_alpaca_has_its_headings_and_ends_where_the_response_begins(micro_tokenizer: PreTrainedTokenizerFast) -> None:
    text = render_prompt("alpaca", PROBLEM, micro_tokenizer)
    assert text.startswith("Below is an instruction that describes a task.")
    assert text.endswith("\n\n### Instruction:\nReturn the sum of the list.\n\n### Response:\n")


def test_plain_is_the_description_and_a_newline(micro_tokenizer: PreTrainedTokenizerFast) -> None:
    assert render_prompt("plain", PROBLEM, micro_tokenizer) == "Return the sum of the list.\n"


def test_chat_is_the_tokenizers_own_template(micro_tokenizer: PreTrainedTokenizerFast) -> None:
    chat = PreTrainedTokenizerFast(
        tokenizer_object=micro_tokenizer.backend_tokenizer,
        chat_template="{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}",
    )
    assert render_prompt("chat", PROBLEM, chat) == "<user>Return the sum of the list.<assistant>"


def test_chat_without_a_chat_template_is_refused(micro_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match=r"template 'chat': .* has no chat template; use 'alpaca'"):
        render_prompt("chat", PROBLEM, micro_tokenizer)


def _with_template(tokenizer: PreTrainedTokenizerBase, template: str) -> PreTrainedTokenizerBase:
    chat = copy.deepcopy(tokenizer)
    chat.chat_template = template
    return chat


def _quoting(tokenizer: PreTrainedTokenizerBase) -> Problem:
    special = [token for token in (tokenizer.bos_token, tokenizer.eos_token) if token]
    return replace(PROBLEM, description=f"Strike <b>{special[0]}this{special[-1]}</b> out.{special[-1]}")


@pytest.mark.parametrize("template", ["plain", "alpaca"])
def test_special_tokens_in_a_problems_text_are_text(tokenizer: PreTrainedTokenizerBase, template: str) -> None:
    ids = encode_problem(tokenizer, template, _quoting(tokenizer))
    bos = [tokenizer.bos_token_id] if ids[0] == tokenizer.bos_token_id else []
    assert tokenizer.eos_token_id not in ids
    assert ids.count(tokenizer.bos_token_id) == len(bos)
    assert _text(tokenizer, ids) == render_prompt(template, _quoting(tokenizer), tokenizer)


CHAT = "{{ eos_token }}user\n{{ messages[0]['content'] | trim }}{{ eos_token }}\n{{ eos_token }}assistant\n"


@pytest.mark.parametrize("template", [CHAT, "user\n{{ messages[0]['content'] }}{{ eos_token }}assistant\n"])
def test_of_a_chat_prompt_only_the_templates_special_tokens_are_special(
    tokenizer: PreTrainedTokenizerBase, template: str
) -> None:
    chat = _with_template(tokenizer, template)
    ids = encode_problem(chat, "chat", _quoting(chat))
    assert ids.count(chat.eos_token_id) == template.count("eos_token")
    assert _text(chat, ids) == render_prompt("chat", _quoting(chat), chat)
    whole = encode_prompt(chat, render_prompt("chat", PROBLEM, chat))
    last = [row[len(row) - row[::-1].index(chat.eos_token_id) :] for row in (ids, whole)]
    assert last[0] == last[1], "what follows the instruction is tokenized as it always is"


def test_a_chat_prompt_without_special_tokens_in_its_problem_is_tokenized_as_a_whole(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    chat = _with_template(tokenizer, CHAT)
    assert encode_problem(chat, "chat", PROBLEM) == encode_prompt(chat, render_prompt("chat", PROBLEM, chat))


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('Conversation roles must alternate') }}", "{% if %}", "{{ messages[3].content }}"]
)
def test_a_chat_template_that_fails_is_one_line(micro_tokenizer: PreTrainedTokenizerFast, template: str) -> None:
    with pytest.raises(UserError, match=r"template 'chat': the chat template of .* fails .*; use 'alpaca', or fix"):
        render_prompt("chat", PROBLEM, _with_template(micro_tokenizer, template))


def test_an_unknown_template_is_refused_with_the_known_ones(micro_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match=f"'alpacca' is unknown: choose one of {', '.join(TEMPLATES)}"):
        render_prompt("alpacca", PROBLEM, micro_tokenizer)


def test_mbpp_prompts_show_set_up_and_public_tests_but_no_challenge_tests(
    micro_tokenizer: PreTrainedTokenizerFast, shared: Path
) -> None:
    problems, _ = records(mbpp.read(shared / "mbpp" / "mbpp.jsonl.gz"))
    problem = next(problem for problem in problems if problem.problem_id == "mbpp/367")
    problem = replace(problem, tests=(*problem.tests, TestCase("code", "", "assert hidden()", "generated")))
    text = render_prompt("alpaca", problem, micro_tokenizer)
    assert text.count("root = Node(1)") == 1
    assert text.count("assert is_tree_balanced(") == 3
    assert "hidden" not in text


def test_humaneval_prompts_show_the_starter_once_and_no_test(
    micro_tokenizer: PreTrainedTokenizerFast, shared: Path
) -> None:
    problems, _ = records(humaneval.read(shared / "humaneval" / "HumanEval.jsonl.gz"))
    for problem in problems:
        text = render_prompt("alpaca", problem, micro_tokenizer)
        assert text.count(problem.starter.strip()) == 1
        assert text.count(problem.description) == problem.starter.count(problem.description)
        assert "def check(" not in text
        assert render_prompt("plain", problem, micro_tokenizer) == problem.starter


def test_a_description_that_the_starter_does_not_hold_comes_before_it(micro_tokenizer: PreTrainedTokenizerFast) -> None:
    text = render_prompt("alpaca", replace(PROBLEM, starter="def solve(xs):\n"), micro_tokenizer)
    assert text.index(PROBLEM.description) < text.index("def solve(xs):")


def test_solutions_are_encoded_as_their_prompt_and_code(micro_tokenizer: PreTrainedTokenizerFast) -> None:
    solutions = [Solution("a", "p", "def solve(xs): return 1", True), Solution("b", "p", "def solve(xs): pass", False)]
    prompt = render_prompt("plain", PROBLEM, micro_tokenizer)
    found = list(encode_solutions(micro_tokenizer, "plain", [PROBLEM], solutions))
    assert found == [(s.solution_id, encode_example(micro_tokenizer, prompt, s.code)) for s in solutions]


def test_a_solution_of_an_unknown_problem_is_named(micro_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match="solution 'a' is of problem 'q', which is not in its split"):
        list(encode_solutions(micro_tokenizer, "plain", [PROBLEM], [Solution("a", "q", "", True)]))


def test_a_tokenizer_that_folds_white_space_is_refused() -> None:
    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "[END]": 1}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    prose = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="[END]", unk_token="[UNK]")
    with pytest.raises(UserError, match="does not keep line breaks and indentation"):
        list(encode_solutions(prose, "plain", [PROBLEM], [Solution("a", "p", "pass", True)]))


def test_an_empty_response_is_eos_alone(tokenizer: PreTrainedTokenizerBase) -> None:
    prompt = encode_prompt(tokenizer, "x\n")
    ids = [*prompt, tokenizer.eos_token_id]
    assert encode_example(tokenizer, "x\n", "") == Example(ids, len(prompt), bytes(len(ids)))


def test_the_tokens_of_a_span_are_marked_and_no_others(tokenizer: PreTrainedTokenizerBase) -> None:
    code = "def f(x):\n    return x + 1234 if x > 0 else 77\n"
    spans = [Span("semantic", code.index("1234"), code.index(" if")), Span("wrong", code.index("77"), len(code) - 1)]
    sample = encode_example(tokenizer, "x\n", code, spans)
    assert len(sample.marks) == len(sample.input_ids)
    for bit, text in ((1, "1234"), (2, "77")):
        marked = [token for token, marks in zip(sample.input_ids, sample.marks, strict=True) if marks == bit]
        assert _text(tokenizer, marked).strip() == text
    assert sample.input_ids == encode_example(tokenizer, "x\n", code).input_ids


def test_a_starter_that_only_describes_is_no_function_to_complete(tokenizer: PreTrainedTokenizerBase) -> None:
    problem = Problem(
        "mbpp+/2", "mbpp+", "test", "Add one.\nassert grow(1) == 2", '"""\nAdd one.\nassert grow(1) == 2\n"""\n', "grow"
    )
    assert render_prompt("plain", problem, tokenizer) == problem.starter
    asked = render_prompt("alpaca", problem, tokenizer)
    assert f"### Instruction:\n{problem.description}\n\n### Response" in asked


@pytest.mark.parametrize("form", ["%d %b %Y", "%A, %-d. %B", "%Y-%m-%dT%H"])
@pytest.mark.parametrize("before", ["", "\n", "  "])
def test_a_chat_template_is_given_the_date_that_is_asked_for(
    micro_tokenizer: PreTrainedTokenizerBase, form: str, before: str
) -> None:
    chat = copy.deepcopy(micro_tokenizer)
    chat.chat_template = (
        before + "{% if strftime_now is defined %}{{ strftime_now('" + form + "') }}{% endif %} {{ bos_token }}"
    )
    assert names_a_date("chat", chat)
    assert not names_a_date("plain", chat)
    day = datetime.date(2024, 2, 9)
    now = [datetime.datetime.now().strftime(form)]
    own = chat.apply_chat_template([{"role": "user", "content": ""}], tokenize=False)
    now.append(datetime.datetime.now().strftime(form))
    expected = {own.replace(text, datetime.datetime(2024, 2, 9).strftime(form)) for text in now}
    assert render_prompt("chat", PROBLEM, chat, day) in expected - {own}
