"""Tokens a second of our sampler and of transformers' `generate`, same model, prompts and lengths, in the same run.

    python benchmarks/sampling.py MODEL [--batch 1 16 64] [--dtype float32 bfloat16] [--new-tokens 64] [--uneven]

Greedy, code prompts of about 25 tokens. No token ends a completion, so that both do equal work; with `--uneven` every
16th token of the vocabulary does, so that rows end at different times as they do in real use.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from weighted_mtp.decoding.config import SamplingConfig
from weighted_mtp.decoding.sample import sample
from weighted_mtp.models.convert import load_base

NAMES = (
    *("area", "volume", "median", "mode", "variance", "product", "maximum", "minimum"),
    *("factorial", "fibonacci", "primes", "digits", "vowels", "words", "lines", "squares"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--uneven", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{'dtype':10} {'batch':>5} {'ours tok/s':>10} {'generate':>10} {'ratio':>6}")
    for dtype in options.dtype:
        model, tokenizer = load_base(options.model, dtype)
        tokenizer.eos_token_id = None
        model.generation_config.eos_token_id = list(range(0, len(tokenizer), 16)) if options.uneven else None
        for batch in options.batch:
            compare(model, tokenizer, dtype, batch, options.new_tokens, options.repeats)


def compare(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dtype: str, batch: int, new_tokens: int, repeats: int
) -> None:
    names = [f"{NAMES[i % len(NAMES)]}_{i}" for i in range(batch)]
    prompts = [tokenizer.encode(f"def {n}(values):\n    '''Return the {n} of the values.'''\n") for n in names]
    config = SamplingConfig(max_new_tokens=new_tokens, batch_size=batch)

    def ours() -> int:
        return sum(completion.n_tokens for (completion,) in sample(model, tokenizer, prompts, config))

    def theirs() -> int:
        length = max(map(len, prompts))
        padded = torch.tensor([[0] * (length - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts])
        out = model.generate(padded, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False, pad_token_id=0)
        return sum(map(len, tokenizer.batch_decode(out[:, length:])))

    tokens = ours()
    mine, peer = alternate(ours, theirs, repeats)
    print(f"{dtype:10} {batch:5} {tokens / mine:10.1f} {tokens / peer:10.1f} {peer / mine:6.2f}", flush=True)


def alternate(ours: Callable[[], int], theirs: Callable[[], int], repeats: int) -> tuple[float, float]:
    """Median seconds of each, taken in turns so that a machine's moods meet both."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for run, times in zip((ours, theirs), seconds, strict=True):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


if __name__ == "__main__":
    main()
