"""Many samples of each problem: our sampler and transformers' `generate(num_return_sequences=…)`, in turns.

    OMP_NUM_THREADS=1 uv run python benchmarks/sampling.py MODEL --data ../shared/data [--problems 164] [--samples 20]

Prompts are HumanEval's, whose completions end where the benchmark's programs do: at a stop string or an end token, each
after another number of tokens. Both sides draw from the whole distribution at the same temperature and watch for the
same ends; ours replaces a row that is finished, the other's batch runs until its last row is. Before anything is timed
for the table, `generate` tries `--peer-prompts` prompts at a time (each with all its samples), and takes the fastest.

Tokens per CPU second of one process, which other programs on the machine disturb less than elapsed seconds; the two
take turns, and ratios are taken round by round: median (lowest to highest). The table is printed and written to
benchmarks/results/sampling.md.
"""

import argparse
import gzip
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from step import machine, spread
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from weighted_mtp.decoding.config import SamplingConfig
from weighted_mtp.decoding.rows import end_tokens
from weighted_mtp.decoding.sample import sample
from weighted_mtp.evaluation.benchmarks import benchmark
from weighted_mtp.models.convert import load_base

RESULTS = Path(__file__).parent / "results" / "sampling.md"
STOP = benchmark("humaneval").stop
Prompts = list[list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True, help="folder of humaneval/")
    parser.add_argument("--problems", type=int, default=164)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--batch", type=int, default=128, help="rows of ours")
    parser.add_argument("--peer-prompts", type=int, nargs="+", default=[1, 3, 6])
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with gzip.open(options.data / "humaneval" / "HumanEval.jsonl.gz", "rt") as lines:
        problems = [json.loads(line)["prompt"] for line in lines][: options.problems]
    table = [
        f"{machine()}; {len(problems)} of HumanEval's prompts × {options.samples} samples, temperature "
        f"{options.temperature:g}, at most {options.new_tokens} tokens, {options.repeats} rounds",
        "",
        "| dtype | tokens a completion | here, rows | here, tokens/CPU s | `generate`, rows | `generate`, tokens/CPU s "
        "| ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for dtype in options.dtype:
        model, tokenizer = load_base(options.model, dtype)
        prompts = [tokenizer.encode(text) for text in problems]
        table.append(row(model.eval(), tokenizer, prompts, dtype, options))
        RESULTS.write_text("\n".join(table) + "\n")
    print("\n".join(table))


def row(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Prompts,
    dtype: str,
    options: argparse.Namespace,
) -> str:
    counts: list[int] = []

    def ours() -> int:
        config = SamplingConfig(
            max_new_tokens=options.new_tokens,
            batch_size=options.batch,
            temperature=options.temperature,
            n_samples=options.samples,
            stop=STOP,
        )
        counts.append(sum(c.n_tokens for found in sample(model, tokenizer, prompts, config) for c in found))
        return counts[-1]

    def theirs(at_once: int, prompts: Prompts = prompts) -> int:
        order = sorted(prompts, key=len)
        return sum(generated(model, tokenizer, order[i : i + at_once], options) for i in range(0, len(order), at_once))

    trial = prompts[: max(options.peer_prompts)]
    best = max(options.peer_prompts, key=lambda n: rate(lambda: theirs(n, trial)))
    mine: list[float] = []
    peer: list[float] = []
    for _ in range(options.repeats):
        mine.append(rate(ours))
        peer.append(rate(lambda: theirs(best)))
    cells = [
        dtype,
        f"{counts[-1] / len(prompts) / options.samples:.0f}",
        options.batch,
        f"{statistics.median(mine):,.0f}",
        best * options.samples,
    ]
    cells += [f"{statistics.median(peer):,.0f}", spread(a / b for a, b in zip(mine, peer, strict=True))]
    return "| " + " | ".join(map(str, cells)) + " |"


def generated(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Prompts, options: argparse.Namespace
) -> int:
    """Tokens of a batch of `generate`, each completion's up to its end."""
    longest, ends = max(map(len, prompts)), end_tokens(model.generation_config, tokenizer)
    filler = min(ends)
    out = model.generate(
        torch.tensor([[filler] * (longest - len(p)) + p for p in prompts]),
        attention_mask=torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts]),
        max_new_tokens=options.new_tokens,
        do_sample=True,
        temperature=options.temperature,
        top_k=0,
        top_p=1.0,
        num_return_sequences=options.samples,
        eos_token_id=sorted(ends),
        pad_token_id=filler,
        stop_strings=list(STOP),
        tokenizer=tokenizer,
    )
    ended = torch.isin(out[:, longest:], torch.tensor(sorted(ends))).int()
    return int((ended.cumsum(1) - ended == 0).sum())


def rate(run: Callable[[], int]) -> float:
    """Tokens per CPU second."""
    start = time.process_time()
    tokens = run()
    return tokens / (time.process_time() - start)


if __name__ == "__main__":
    main()
