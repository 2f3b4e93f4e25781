"""Weighted next-token training in a flat loop: a critic's token weights, and nothing else of the framework.

    uv run wmtp train critic --config local/critic_local        # any critic, of the same vocabulary as the model
    uv run python examples/weighted_loop.py --model MODEL --critic storage/runs/critic_local --data pairs.jsonl

`pairs.jsonl` has a `prompt` and a `completion` a row; prompts are texts as the critic's `data.template` makes them.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from weighted_mtp import load_critic, token_weights


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or hub id of a causal LM")
    parser.add_argument("--critic", type=Path, required=True, help="run of a critic")
    parser.add_argument("--data", type=Path, required=True, help="JSON lines of prompt and completion")
    parser.add_argument("--output", type=Path, default=Path("weighted-model"))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-5)
    parser.add_argument("--max-length", type=int, default=1024)
    return parser.parse_args()


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, completion: str) -> tuple[list[int], int]:
    """Token ids, and where the completion starts: tokenized apart, so that no token spans the border."""
    before = tokenizer.encode(prompt)
    after = tokenizer.encode(completion, add_special_tokens=False)
    return [*before, *after, tokenizer.eos_token_id], len(before)


def batch_of(rows: list[tuple[list[int], int]]) -> tuple[Tensor, Tensor, Tensor]:
    """input_ids, attention_mask, response_mask, each (B, T), padded on the right."""
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + [0] * (longest - len(row)) for row, _ in rows])
    place = torch.arange(longest)[None]
    real = place < torch.tensor([[len(row)] for row, _ in rows])
    response = real & (place >= torch.tensor([[start] for _, start in rows]))
    return ids, real, response


def weighted_loss(logits: Tensor, ids: Tensor, response: Tensor, weights: Tensor) -> Tensor:
    """Σ w_t · CE_t / number of response tokens: a token is weighted where it is the target."""
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
    learned = response[:, 1:].flatten()
    return (losses * weights[:, 1:].flatten())[learned].sum() / learned.sum()


def main() -> None:
    options = arguments()
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, trust_remote_code=True)
    critic = load_critic(options.critic)
    assert critic.tokenizer.get_vocab() == tokenizer.get_vocab(), "the critic reads other tokens than the model"

    rows = [json.loads(line) for line in options.data.read_text().splitlines()]
    examples = [encode(tokenizer, row["prompt"], row["completion"]) for row in rows]
    examples = [(ids, start) for ids, start in examples if len(ids) <= options.max_length]
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr)
    state = None  # the running mean and spread of advantages

    for step in range(options.steps):
        chosen = torch.randint(len(examples), (options.batch,)).tolist()
        ids, real, response = batch_of([examples[i] for i in chosen])
        weights, delta, state = token_weights(critic, ids, real, response, state=state)
        loss = weighted_loss(model(input_ids=ids, attention_mask=real).logits, ids, response, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        spread = weights[response].std()
        print(f"step {step + 1}: loss {loss:.4f}, weights' spread {spread:.3f}, mean δ {delta[response].mean():+.4f}")

    model.save_pretrained(options.output)
    tokenizer.save_pretrained(options.output)
    print(options.output)


if __name__ == "__main__":
    main()
