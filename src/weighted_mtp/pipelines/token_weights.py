"""Which tokens count: programs coloured by the weights that training gives them, and by what the critic says of them.

    uv run wmtp weights --critic storage/runs/critic_local --output weights.html
    uv run wmtp weights --run storage/runs/verifiable_local      with the options and running moments of that run

Writes an HTML page, and a picture of a few of its programs beside it.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import torch
from tokenizers.decoders import DecodeStream
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from weighted_mtp.data.batches import Batch, TokenStore, build_store, collate, within
from weighted_mtp.data.index import read_index
from weighted_mtp.data.prompts import MARKS, encode_solutions
from weighted_mtp.data.schema import Problem, Solution
from weighted_mtp.data.tables import read_problems, read_solutions
from weighted_mtp.errors import UserError
from weighted_mtp.extras import can_draw
from weighted_mtp.pipelines.weight_source import Judgement, WeightSource
from weighted_mtp.report.token_page import ShownProgram, ShownPrograms, Token, View, write_token_page
from weighted_mtp.runtime.device import pick_device
from weighted_mtp.value_weighting.metrics import localisation_auc

IN_PICTURE = 4
"""Programs of the page that the picture shows."""
END = "⟨end⟩"
_CANDIDATES = 8  # programs of either kind that twins are chosen among
_STRONG = 0.98  # quantile of |δ| that has the full colour: one outlier would leave the others pale


def chosen_programs(directory: Path, n_problems: int) -> tuple[list[Problem], list[Solution]]:
    """The first problems of a split that have both, each with the correct and the incorrect program that are most alike
    among its first of either kind.

    Raises UserError if no problem has both.
    """
    index = read_index(directory)
    both = np.intersect1d(index.problem[index.is_correct], index.problem[~index.is_correct])[:n_problems]
    if not len(both):
        raise UserError(
            f"{directory}: no problem has both a correct and an incorrect program; choose another --dataset or --split"
        )
    twins: list[Solution] = []
    for problem in both:
        kinds = [(index.problem == problem) & (index.is_correct == is_correct) for is_correct in (True, False)]
        firsts = [read_solutions(directory, np.flatnonzero(kind)[:_CANDIDATES].tolist()) for kind in kinds]
        alike = max(itertools.product(*firsts), key=_likeness)
        twins += alike
    return read_problems(directory, both.astype(np.int64)), twins


def _likeness(programs: tuple[Solution, ...]) -> float:
    one, other = programs
    return SequenceMatcher(None, one.code, other.code).ratio()


def token_texts(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], response: Sequence[int]) -> list[str]:
    """The text that each token of a response adds; "" for one whose character a later token completes, and for EOS."""
    backend = tokenizer.backend_tokenizer
    stream = DecodeStream(skip_special_tokens=True)
    texts = [stream.step(backend, token) or "" for token in (*prompt, *response)]
    return texts[len(prompt) :]


def batches_of(
    source: WeightSource, problems: Sequence[Problem], solutions: Sequence[Solution]
) -> tuple[TokenStore, list[Batch]]:
    """Programs as the run reads them, one per batch, on its device; those longer than its `data.max_length` are left
    out."""
    examples = encode_solutions(source.tokenizer, source.template, problems, solutions, source.day)
    store = within(build_store(examples), source.max_length)
    device = pick_device(source.runtime)
    return store, [collate(store, np.array([row])).to(device) for row in range(len(store))]


def shown_programs(source: WeightSource, directory: Path, n_problems: int) -> ShownPrograms:
    """Twins of a split's first problems, with every token's weight (of each head, where heads differ), judgement and
    value, and the scales. Programs longer than the run's `data.max_length` are left out.

    Raises UserError as `chosen_programs`.
    """
    problems, solutions = chosen_programs(directory, n_problems)
    store, batches = batches_of(source, problems, solutions)
    by_id = {solution.solution_id: solution for solution in solutions}
    kept = [by_id[name] for name in store.sample_ids]
    weights = [w.float().cpu() for w in source.weights(batches, [solution.is_correct for solution in kept])]
    judged = [j for j in (source.judgement, source.value) if j is not None]
    judgements = [torch.stack([j.of(batch).float().cpu() for j in judged], dim=-1) for batch in batches]
    on_cpu = [batch.to("cpu") for batch in batches]
    tasks = {problem.problem_id: problem.description.strip() for problem in problems}
    firsts = _first_differences([solution.problem_id for solution in kept], on_cpu)
    shown = [
        ShownProgram(
            solution.solution_id,
            tasks[solution.problem_id],
            solution.is_correct,
            tuple(_tokens(source.tokenizer, batch, weight, judgement, first)),
            tuple(_facts(source, batch, weight, judgement[..., 0], first)),
        )
        for solution, batch, weight, judgement, first in zip(kept, on_cpu, weights, judgements, firsts, strict=True)
    ]
    return ShownPrograms(source.notes, _views(judged, on_cpu, weights, judgements), shown)


def _first_differences(problems: Sequence[str], batches: Sequence[Batch]) -> list[int | None]:
    """Where in its row each program's response first differs from its twin's; None if it has no twin."""
    rows: dict[str, list[list[int]]] = {}
    for problem, batch in zip(problems, batches, strict=True):
        rows.setdefault(problem, []).append(batch.input_ids[0].tolist())
    found = {}
    for problem, twins in rows.items():
        tokens = enumerate(itertools.zip_longest(*twins))
        found[problem] = next((n for n, both in tokens if len(set(both)) > 1), None) if len(twins) == 2 else None
    return [found[problem] for problem in problems]


def _tokens(
    tokenizer: PreTrainedTokenizerBase, batch: Batch, weights: Tensor, judgements: Tensor, first: int | None
) -> list[Token]:
    start = int(batch.response_mask[0].int().argmax())
    ids = batch.input_ids[0].tolist()
    texts = token_texts(tokenizer, ids[:start], ids[start:])
    if ids[-1] == tokenizer.eos_token_id:
        texts[-1] = END
    values = torch.cat([weights[0].reshape(len(ids), -1), judgements[0]], dim=1)[start:].tolist()
    marks = batch.marks[0, start:].tolist()
    return [
        Token(text, tuple(value), bool(mark & MARKS["semantic"]), bool(mark & MARKS["wrong"]), place == first)
        for place, (text, value, mark) in enumerate(zip(texts, values, marks, strict=True), start)
    ]


def _facts(source: WeightSource, batch: Batch, weights: Tensor, judgement: Tensor, first: int | None) -> list[str]:
    semantic = (batch.marks & MARKS["semantic"]) > 0
    wrong = (batch.marks & MARKS["wrong"]) > 0
    facts = []
    if semantic.any():
        w, inside = weights[batch.response_mask], semantic[batch.response_mask]
        tokens, weight = inside.float().mean(), w[inside].sum() / w.sum()
        facts.append(f"Semantic tokens: {tokens:.0%} of the tokens, {weight:.0%} of the weight.")
    places = {first: "First difference", int(wrong.int().argmax()) if wrong.any() else None: "First wrong token"}
    for place, name in places.items():
        if source.localises and place is not None:
            auc, n = localisation_auc(judgement, batch.response_mask, torch.tensor([place]))
            share = float(auc / n.clamp(min=1))
            facts.append(f"{name}: {share:.0%} of the other tokens have a higher {source.judgement.title}.")
    return facts


def _views(
    judged: Sequence[Judgement], batches: Sequence[Batch], weights: Sequence[Tensor], judgements: Sequence[Tensor]
) -> list[View]:
    masks = [batch.response_mask for batch in batches]
    all_weights = torch.cat([w[m].reshape(int(m.sum()), -1) for w, m in zip(weights, masks, strict=True)])
    said = torch.cat([j[m] for j, m in zip(judgements, masks, strict=True)])
    n_heads = all_weights.shape[1]
    views = [
        view_of_weights("weight" if n_heads == 1 else f"weight, head {k + 1}", all_weights[:, k])
        for k in range(n_heads)
    ]
    for judgement, values in zip(judged, said.T, strict=True):
        strong, centre = float((values - judgement.centre).abs().quantile(_STRONG)), judgement.centre
        views.append(View(judgement.title, judgement.explanation, centre - strong, centre, centre + strong))
    return views


def view_of_weights(title: str, weights: Tensor) -> View:
    """A scale around 1; around the mean of weights that are all below 1, as confidence makes those of a new policy,
    since no colour would tell them apart on the other scale."""
    low, high = float(weights.min()), float(weights.max())
    centre = 1.0 if high > 1 or low == high else float(weights.mean())
    explanation = "How much a token counts in the loss; 1 is an unweighted token."
    return View(title, explanation, min(centre, low), centre, max(centre, high))


def write_weights(source: WeightSource, directory: Path, n_problems: int, output: Path) -> list[Path]:
    """Write the page, and the picture beside it where figures can be drawn; returns the files."""
    shown = shown_programs(source, directory, n_problems)
    write_token_page(output, f"Token weights: {directory.parent.name}/{directory.name}", shown)
    if not can_draw():
        return [output]
    from weighted_mtp.report.token_picture import draw_programs

    picture = output.with_suffix(".png")
    judged = next(number for number, view in enumerate(shown.views) if view.title == source.judgement.title)
    programs = [_of_two(program, judged) for program in shown.programs[:IN_PICTURE]]
    draw_programs(picture, [shown.views[0], shown.views[judged]], programs)
    return [output, picture]


def _of_two(program: ShownProgram, judged: int) -> ShownProgram:
    """The program with only its first weight and its judgement."""
    return replace(program, tokens=tuple(replace(t, values=(t.values[0], t.values[judged])) for t in program.tokens))
