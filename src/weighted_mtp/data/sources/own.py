"""A user's own problems: one flat object a row, with every mistake told by its row.

    {"id": "add", "prompt": "Write add(a, b), the sum.", "entry_point": "add",
     "tests": [{"args": [1, 2], "returns": 3}], "correct": ["def add(a, b): …"], "incorrect": ["…"], "split": "train"}
    {"prompt": "…", "completion": "…"}
    {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}

Rows of the last two forms have nothing to execute: the reference and the baseline learn from them.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from weighted_mtp.data.schema import Entry, Problem, Solution
from weighted_mtp.data.sources.codecontests import hashed_split
from weighted_mtp.data.sources.own_tests import functions_of, one_entry_point, tests_of
from weighted_mtp.data.sources.rows import DEFAULT, Reading, SourceRow, columns_of, read_rows, unix
from weighted_mtp.data.sources.syntax import parse_python
from weighted_mtp.errors import UserError
from weighted_mtp.wording import nearest

FIELDS = (
    *("id", "prompt", "entry_point", "tests", "public_tests", "correct", "incorrect", "split"),
    *("difficulty", "time_limit", "memory_limit_mb", "completion", "messages"),
)
SPLITS = ("train", "validation", "test")
_CALLED_SO = {"valid": "validation", "val": "validation", "dev": "validation"}
_ROLES = ("system", "user", "assistant")
_ALSO_CALLED = {
    "prompt": ("instruction", "question", "problem", "description", "task", "text"),
    "tests": ("test_list", "test_cases", "unit_tests", "asserts", "assertions"),
    "correct": ("solution", "solutions", "correct_solutions", "canonical_solution", "programs"),
    "incorrect": ("incorrect_solutions", "wrong", "wrong_solutions"),
    "completion": ("output", "response", "answer"),
}
"""Field → what other files call it."""
_NEEDLESS = {
    "prompt": {"messages"},
    "tests": {"public_tests", "completion", "messages"},
    "correct": {"completion", "messages"},
    "incorrect": {"completion", "messages"},
    "completion": {"tests", "public_tests", "correct", "incorrect", "messages"},
}
"""Field → those beside which a row does without it."""
_LISTED = 20  # mistakes


def read(path: Path, reading: Reading = DEFAULT) -> Iterator[Entry]:
    """Problems of JSON lines, a JSON array or Parquet.

    A problem without an id is named by its row. One without a split gets that of its id's hash: 80 % train, 10 %
    validation, 10 % test. Programs that are repeated or too long are dropped, and counted.

    Raises UserError as `read_rows`, and naming the row for anything that a row gets wrong. From the first mistake on
    nothing is yielded, but all rows are read, so that one error lists all mistakes.
    """
    mistakes: list[str] = []
    try:
        _check_names(str(path), columns_of(path))
        for row in read_rows(path, dict.fromkeys(FIELDS, object), reading.on_bytes, reading.group):
            try:
                entry = _entry(row, reading)
            except UserError as error:
                mistakes.append(str(error))
                continue
            if not mistakes:
                yield entry
    except UserError as error:
        mistakes.append(str(error))
    if mistakes:
        raise UserError(_listed(path, mistakes))


def _listed(path: Path, mistakes: Sequence[str]) -> str:
    if len(mistakes) == 1:
        return mistakes[0]
    more = [f"and {len(mistakes) - _LISTED:,} more"] if len(mistakes) > _LISTED else []
    return "\n  ".join([f"{path}: {len(mistakes):,} mistakes, so nothing is imported:", *mistakes[:_LISTED], *more])


def _entry(row: SourceRow, reading: Reading) -> Entry:
    """What `read` makes of a row. Raises UserError for what is wrong with it."""
    _check_names(row.where, row.values)
    prompt, programs, incorrect = _form(row)
    tests = tests_of(row)
    is_code = bool(tests or incorrect or row["correct"])
    entry_point = _entry_point(row, programs, is_code)
    if entry_point and entry_point not in prompt and not any(test.is_shown for test in tests):
        raise UserError(
            f"{row.where}: the prompt does not name the function {entry_point!r} that tests call, so no model can know "
            "it: name it, or show assertions as `public_tests`"
        )
    name = _name(row)
    split = _split(row, reading, name)
    problem = Problem(
        problem_id=f"{reading.dataset}/{name}",
        source=reading.dataset,
        split=split,
        description=prompt,
        entry_point=entry_point,
        difficulty=_whole(row, "difficulty", -1),
        tests=tests,
        time_limit=_positive(row, "time_limit"),
        memory_limit=None if row["memory_limit_mb"] is None else _whole(row, "memory_limit_mb", 0) << 20,
    )
    dropped: Counter[str] = Counter()
    solutions = [
        *_solutions(row, problem, programs, True, reading, dropped, is_code),
        *_solutions(row, problem, incorrect, False, reading, dropped, is_code),
    ]
    return Entry(problem, solutions, row.where, dropped)


def _check_names(where: str, names: Collection[str]) -> None:
    """Raises UserError for fields that are misspelt, or called as another file's format calls one that is missing."""
    if meant := {name: field for name in names if name not in FIELDS and (field := _meant(str(name), names))}:
        fields, known = (", ".join(map(repr, each)) for each in (meant, meant.values()))
        raise UserError(f"{where}: unknown field{'s' if len(meant) > 1 else ''} {fields}; did you mean {known}?")


def _meant(name: str, names: Collection[str]) -> str | None:
    field = next((field for field, others in _ALSO_CALLED.items() if name.lower() in others), None)
    if field is not None:
        return None if {field, *_NEEDLESS[field]} & set(names) else field
    return nearest(name, FIELDS, 0.75) or None


def _form(row: SourceRow) -> tuple[str, list[str], list[str]]:
    """Prompt, correct and incorrect programs of a row of any form."""
    forms = {"messages": ("prompt", "completion", "correct", "incorrect"), "completion": ("correct", "incorrect")}
    for form, others in forms.items():
        if row[form] is not None and (other := next((o for o in others if row[o] is not None), None)):
            raise UserError(f"{row.where}: has {form!r} and {other!r}, which say the same in two forms: keep one")
    if row["messages"] is not None:
        prompt, completion = _conversation(row)
        return prompt, [completion], []
    prompt = _text(row, "prompt")
    if row["completion"] is not None:
        return prompt, [_text(row, "completion")], []
    correct, incorrect = _programs(row, "correct"), _programs(row, "incorrect")
    if both := set(correct) & set(incorrect):
        number = 1 + incorrect.index(both.pop())
        raise UserError(f"{row.where}: program {number} of `incorrect` is in `correct`, too: keep it in one of them")
    if not correct and not incorrect and row["tests"] is None and row["public_tests"] is None:
        raise UserError(f"{row.where}: nothing to learn from or to test: give `correct`, `tests`, or `completion`")
    return prompt, correct, incorrect


def _conversation(row: SourceRow) -> tuple[str, str]:
    """What one user message asks (after a system message, if any) and what is answered."""
    messages = row["messages"]
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise UserError(f'{row.where}: `messages` must be a list of {{"role": …, "content": …}}')
    texts: list[tuple[str, str]] = []
    for number, message in enumerate(messages, 1):
        role, content = message.get("role"), message.get("content")
        if role not in _ROLES:
            raise UserError(f"{row.where}: message {number} has role {role!r}: it must be one of {', '.join(_ROLES)}")
        if not isinstance(content, str) or not content.strip():
            raise UserError(f"{row.where}: message {number} has no text as `content`")
        texts.append((role, unix(content)))
    roles = [role for role, _ in texts if role != "system"]
    if roles != ["user", "assistant"]:
        raise UserError(
            f"{row.where}: `messages` are of {', '.join(roles) or 'nobody'}: give one user message and the assistant's "
            "answer, and a row for each turn"
        )
    *asked, (_, answer) = texts
    return "\n\n".join(text.strip() for _, text in asked), answer


def _text(row: SourceRow, field: str) -> str:
    value = row[field]
    if value is None:
        raise UserError(f"{row.where}: no {field!r} (it has {', '.join(map(str, row.values)) or 'nothing'})")
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{row.where}: {field!r} is {_shown(value)}: give a text")
    return unix(value).strip() if field == "prompt" else unix(value)


def _programs(row: SourceRow, field: str) -> list[str]:
    value = row[field]
    if value is None:
        return []
    if isinstance(value, str):
        raise UserError(f"{row.where}: `{field}` is one text: put its programs into a list, [{_shown(value)}]")
    if not isinstance(value, list):
        raise UserError(f"{row.where}: `{field}` is {_shown(value)}: give a list of programs")
    for number, program in enumerate(value, 1):
        if not isinstance(program, str) or not program.strip():
            raise UserError(f"{row.where}: program {number} of `{field}` is {_shown(program)}: give its text")
    return [unix(program) for program in value]


def _entry_point(row: SourceRow, programs: Sequence[str], is_code: bool) -> str:
    """The function that tests call: the one given, which every correct program must define, or the one that can be
    meant; "" where tests call none."""
    if not is_code:
        return ""
    defined = [functions_of(row, program, number) for number, program in enumerate(programs, 1)]
    given = row["entry_point"]
    if given is None:
        return one_entry_point(row, defined)
    if not isinstance(given, str) or not given.isidentifier():
        raise UserError(f"{row.where}: `entry_point` is {_shown(given)}: give the name of a function")
    for number, names in enumerate(defined, 1):
        if given not in names:
            raise UserError(f"{row.where}: program {number} of `correct` does not define {given!r}, the entry_point")
    return given


def _name(row: SourceRow) -> str:
    name = row["id"]
    if name is None:
        return str(row.line)
    if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip() or "\n" in str(name):
        raise UserError(f"{row.where}: `id` is {_shown(name)}: give a short text or a whole number")
    return str(name).strip()


def _split(row: SourceRow, reading: Reading, name: str) -> str:
    given = row["split"]
    if given is None:
        return reading.split or hashed_split(name)
    split = _CALLED_SO.get(given, given) if isinstance(given, str) else given
    if split not in SPLITS:
        raise UserError(f"{row.where}: `split` is {_shown(given)}: it must be one of {', '.join(SPLITS)}")
    if reading.split not in (None, split):
        raise UserError(f"{row.where}: `split` is {split!r}, and it stands in the file of {reading.split!r}")
    return str(split)


def _whole(row: SourceRow, field: str, default: int) -> int:
    value = row[field]
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 0 or value > 1 << 30:
        raise UserError(f"{row.where}: `{field}` is {_shown(value)}: give a whole number from 0 on")
    return value


def _positive(row: SourceRow, field: str) -> float | None:
    value = row[field]
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 24 * 3600:
        raise UserError(f"{row.where}: `{field}` is {_shown(value)}: give seconds, more than 0")
    return float(value)


def _solutions(
    row: SourceRow,
    problem: Problem,
    programs: Sequence[str],
    is_correct: bool,
    reading: Reading,
    dropped: Counter[str],
    is_code: bool,
) -> Iterator[Solution]:
    seen: set[str] = set()
    for number, code in enumerate(programs):
        if len(code) > reading.max_solution_characters:
            dropped[f"solution longer than {reading.max_solution_characters} characters"] += 1
        elif code in seen:
            dropped["solution repeated in its problem"] += 1
        else:
            seen.add(code)
            label = "correct" if is_correct else "incorrect"
            language = "python3" if is_code or _is_python(code) else "text"
            yield Solution(
                f"{problem.problem_id}/{label}/{number}", problem.problem_id, code, is_correct, language, "own"
            )


def _is_python(text: str) -> bool:
    try:
        parse_python(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
