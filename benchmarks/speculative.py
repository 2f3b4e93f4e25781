"""Self-speculative decoding against decoding token by token here and against transformers' `generate`, in turns.

    python benchmarks/speculative.py POLICY PROBLEMS [--batch 1 8] [--temperature 0] [--n 24] [--repeats 5]
        [--dtype float32 bfloat16]

Four ways give the same texts: heads draft; no drafts; no drafts through the model's own modules, as models that are
large or of other families are decoded; and `generate` with its own cache. Each is timed in CPU seconds of its threads,
which other programs on the machine disturb less than wall time, and in turns, so that what they do disturb meets all
ways. Medians of tokens per CPU second, ratios of the first way to each other one with their lowest and highest over the
repeats, and how many texts are the same. The table is printed and written to benchmarks/results/speculative.md.

POLICY    a policy or its run
PROBLEMS  a split of a prepared dataset, as storage/datasets/micro/test
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from measured import machine, ratio
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from weighted_mtp.data.prompts import encode_problem
from weighted_mtp.data.tables import read_problems
from weighted_mtp.decoding import forward
from weighted_mtp.decoding.config import SamplingConfig
from weighted_mtp.decoding.sample import sample
from weighted_mtp.models.convert import load_base

RESULTS = Path(__file__).parent / "results" / "speculative.md"
WAYS = ("drafts", "no drafts", "own modules", "generate")
Texts = tuple[list[str], int]  # and their tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy")
    parser.add_argument("problems", type=Path)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--template", default="plain")
    parser.add_argument("--n", type=int, default=24, help="problems")
    parser.add_argument("--new-tokens", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    models = {dtype: load_base(options.policy, dtype) for dtype in options.dtype}
    model, tokenizer = next(iter(models.values()))
    problems = list(read_problems(options.problems))[: options.n]
    prompts = [encode_problem(tokenizer, options.template, problem) for problem in problems]
    lines = [
        f"{machine()}; {options.threads} thread, {model.config.n_future_tokens} heads, "
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(prompts)} prompts, "
        f"temperature {options.temperature:g}, at most {options.new_tokens} tokens, {options.repeats} repeats",
        "",
        "| dtype | batch | tokens per pass | "
        + " | ".join(f"{way}, tokens/CPU s" for way in WAYS)
        + " | "
        + " | ".join(f"drafts / {way}" for way in WAYS[1:])
        + " | same texts |",
        "|---" * (3 + 2 * len(WAYS)) + "|",
        *(
            f"| {dtype} {row(model, tokenizer, prompts, batch, options)}"
            for dtype, (model, tokenizer) in models.items()
            for batch in options.batch
        ),
    ]
    print("\n".join(lines))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


def row(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    batch: int,
    options: argparse.Namespace,
) -> str:
    base = SamplingConfig(max_new_tokens=options.new_tokens, batch_size=batch, temperature=options.temperature)
    passes: list[float] = []

    def ours(draft: str) -> Texts:
        config = base.model_copy(update={"draft": draft})
        found = [completion for (completion,) in sample(model, tokenizer, prompts, config)]
        tokens = sum(c.n_tokens for c in found)
        if draft == "heads":
            passes.append(tokens / sum(c.n_passes for c in found))
        return [c.text for c in found], tokens

    def of_modules() -> Texts:
        lean, forward.lean = forward.lean, lambda model: None
        try:
            return ours("none")
        finally:
            forward.lean = lean

    def generated() -> Texts:
        return generate(model, tokenizer, prompts, batch, options)

    ways: list[Callable[[], Texts]] = [lambda: ours("heads"), lambda: ours("none"), of_modules, generated]
    texts, rates = alternate(ways, options.repeats)
    same = sum(len(set(each)) == 1 for each in zip(*(texts if options.temperature == 0 else texts[:3]), strict=True))
    ratios = [ratio(rates[0], other) for other in rates[1:]]
    speeds = [f"{statistics.median(rate):,.0f}" for rate in rates]
    cells = [str(batch), f"{passes[-1]:.2f}", *speeds, *ratios, f"{same} of {len(prompts)}"]
    return "| " + " | ".join(cells) + " |"


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    batch: int,
    options: argparse.Namespace,
) -> Texts:
    """Batches of `generate`, of prompts of like length, padded on the left."""
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    texts, tokens = [""] * len(prompts), 0
    how = {
        "do_sample": options.temperature > 0,
        **({"temperature": options.temperature} if options.temperature else {}),
    }
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        longest = max(len(prompts[i]) for i in chosen)
        ids = torch.tensor([[0] * (longest - len(prompts[i])) + prompts[i] for i in chosen])
        mask = torch.tensor([[0] * (longest - len(prompts[i])) + [1] * len(prompts[i]) for i in chosen])
        ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.eos_token_id}
        out = model.generate(ids, attention_mask=mask, max_new_tokens=options.new_tokens, **how, **ends)
        for i, row_ids in zip(chosen, out[:, longest:].tolist(), strict=True):
            end = row_ids.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row_ids else len(row_ids) - 1
            tokens += end + 1
            texts[i] = tokenizer.decode(row_ids, skip_special_tokens=True)
    return texts, tokens


def alternate(ways: list[Callable[[], Texts]], repeats: int) -> tuple[list[list[str]], list[list[float]]]:
    """Texts of each way, and tokens per CPU second of each repeat, taken in turns after one that does not count."""
    texts = [way()[0] for way in ways]
    rates: list[list[float]] = [[] for _ in ways]
    for _ in range(repeats):
        for way, measured in zip(ways, rates, strict=True):
            start = time.process_time()
            _, tokens = way()
            measured.append(tokens / (time.process_time() - start))
    return texts, rates


if __name__ == "__main__":
    main()
