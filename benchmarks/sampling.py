"""Tokens a second of our sampler, of transformers' `generate` and of vLLM: same model, prompts and options, in turns in
one run.

    python benchmarks/sampling.py MODEL PROBLEMS [--samples 20] [--n 16] [--batch 80 320] [--dtype bfloat16] [--even]
                                  [--vllm NAME=VALUE,…]

`--samples` completions of each of `--n` problems, evenly chosen, drawn at `--temperature`, or one each, the likeliest.
Only the model's end tokens end one, and with `--even` none does, so that all are of a length. `generate` gets as many
whole prompts as fit a batch, padded on the left, with `num_return_sequences`. Tokens behind a completion's end do not
count. CPU seconds, which other programs on the machine disturb less than wall time, of vLLM's processes as well but
without their start; medians, and ratios with their lowest and highest over the rounds. `generate's best` is the batch
that is best for it. vLLM takes part where `--vllm` is given, with further arguments of its own or "".
The table is printed and written to benchmarks/results/sampling.md.

MODEL     any causal LM: a folder or hub id, a .gguf file, a policy
PROBLEMS  a split of a prepared dataset, as storage/datasets/humaneval/test
"""

import argparse
import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import gettempdir
from typing import NamedTuple

import psutil
import torch
from measured import machine, ratio
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from weighted_mtp.data.prompts import encode_problem
from weighted_mtp.data.tables import read_problems
from weighted_mtp.decoding.config import SamplingConfig
from weighted_mtp.decoding.engine import Engine
from weighted_mtp.decoding.rows import end_tokens
from weighted_mtp.decoding.sample import sample
from weighted_mtp.evaluation.respondents import vllm_respondent
from weighted_mtp.models.convert import find_model, load_base
from weighted_mtp.progress import progress

RESULTS = Path(__file__).parent / "results" / "sampling.md"


class Task(NamedTuple):
    """What all sides draw; `vllm`: its engine of each batch size, if it takes part."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    prompts: Sequence[list[int]]
    options: argparse.Namespace
    vllm: dict[int, Engine]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("problems", type=Path)
    parser.add_argument("--n", type=int, help="problems; all where not given")
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--template", default="plain")
    parser.add_argument("--batch", type=int, nargs="+", default=[80, 320])
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--even", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--vllm", type=lambda text: [part for part in text.split(",") if part])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, tokenizer = load_base(options.model, options.dtype)
    if options.even:
        tokenizer.eos_token_id = model.generation_config.eos_token_id = None
    prompts = [encode_problem(tokenizer, options.template, problem) for problem in read_problems(options.problems)]
    n = options.n or len(prompts)
    prompts = [prompts[i * len(prompts) // n] for i in range(n)]
    drawn = f"temperature {options.temperature:g}" if options.samples > 1 else "greedy"
    lengths = sorted(map(len, prompts))
    vllm = {batch: _vllm(options, batch) for batch in options.batch if options.vllm is not None}
    table = compared(Task(model, tokenizer, prompts, options, vllm))
    lines = [
        f"{machine()}; {options.threads} thread, {options.dtype}, {sum(p.numel() for p in model.parameters()):,} "
        f"parameters, {n} prompts of {lengths[0]} to {lengths[-1]} tokens × {options.samples}, {drawn}, at most "
        f"{options.new_tokens} tokens{', all as long' if options.even else ''}, {options.repeats} rounds",
        "",
        *table,
    ]
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def _vllm(options: argparse.Namespace, batch: int) -> Engine:
    """vLLM with as many cores as there are threads here."""
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{options.threads - 1}")
    source, scratch = find_model(options.model), Path(gettempdir())
    return vllm_respondent(source, options.template, options.dtype, batch, scratch, arguments=options.vllm).engine


def compared(task: Task) -> list[str]:
    """The table: a row a batch size."""
    options = task.options
    ways: dict[tuple[str, int], Callable[[], list[int]]] = {}
    for batch in options.batch:
        ways["here", batch] = lambda batch=batch: ours(task, batch)
        ways["generate", batch] = lambda batch=batch: generated(task, batch)
        if batch in task.vllm:
            ways["vLLM", batch] = lambda batch=batch: by_vllm(task, batch)
    rates: dict[tuple[str, int], list[float]] = {way: [] for way in ways}
    lengths: dict[str, list[int]] = {}
    with progress("rounds", options.repeats * len(ways)) as done:
        for _ in range(options.repeats):
            for way, run in ways.items():
                start = cpu_seconds()
                lengths[way[0]] = run()
                rates[way].append(sum(lengths[way[0]]) / (cpu_seconds() - start))
                done(1)
    best = max(options.batch, key=lambda batch: statistics.median(rates["generate", batch]))
    rows: list[list[str]] = []
    for batch in options.batch:
        here, others = rates["here", batch], [rates[name, batch] for name in lengths if name != "here"]
        speeds = [f"{statistics.median(rate):,.0f}" for rate in (here, *others)]
        cells = [str(batch), *speeds, *(ratio(here, there) for there in others), ratio(here, rates["generate", best])]
        rows.append(cells)
    titles = [
        "batch",
        *(f"{name}, tokens/CPU s" for name in lengths),
        *(f"here / {name}" for name in lengths if name != "here"),
        "here / generate's best",
    ]
    return [
        *(f"| {' | '.join(cells)} |" for cells in (titles, ["---"] * len(titles), *rows)),
        "",
        "tokens a completion: "
        + ", ".join(f"{who} {statistics.mean(each):.1f} (to {max(each)})" for who, each in lengths.items()),
    ]


def cpu_seconds() -> float:
    """Of this process and those that it has started."""
    mine = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (mine, *mine.children(recursive=True)))


def ours(task: Task, batch: int) -> list[int]:
    """How many tokens each completion has."""
    found = sample(task.model, task.tokenizer, task.prompts, _config(task.options, batch))
    return [c.n_tokens for completions in found for c in completions]


def by_vllm(task: Task, batch: int) -> list[int]:
    """The same of vLLM."""
    config = _config(task.options, batch)
    units = task.vllm[batch].draw(task.prompts, config, range(len(task.prompts) * config.n_samples))
    return [drawn.completion.n_tokens for _, unit in units for drawn in unit]


def _config(options: argparse.Namespace, batch: int) -> SamplingConfig:
    drawn = {"temperature": options.temperature, "n_samples": options.samples} if options.samples > 1 else {}
    return SamplingConfig(max_new_tokens=options.new_tokens, batch_size=batch, **drawn)


def generated(task: Task, batch: int) -> list[int]:
    """The same of `generate`, in batches of prompts of like length."""
    model, tokenizer, prompts, options, _ = task
    ends = end_tokens(model.generation_config, tokenizer)
    drawn = {"do_sample": True, "temperature": options.temperature, "top_k": 0} if options.samples > 1 else {}
    ordered = sorted(prompts, key=len)
    at_once, counts = max(1, batch // options.samples), []
    for start in range(0, len(ordered), at_once):
        chosen = ordered[start : start + at_once]
        longest = len(chosen[-1])
        ids = torch.tensor([[0] * (longest - len(p)) + p for p in chosen])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in chosen])
        out = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=options.new_tokens,
            num_return_sequences=options.samples,
            eos_token_id=sorted(ends) or None,
            pad_token_id=min(ends, default=0),
            **drawn,
        )
        for row in out[:, longest:].tolist():
            counts.append(next((i + 1 for i, token in enumerate(row) if token in ends), len(row)))
    return counts


if __name__ == "__main__":
    main()
