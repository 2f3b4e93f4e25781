"""Weighted SFT in a plain transformers Trainer, from a table of token weights.

    uv run wmtp weights --critic storage/runs/CRITIC --split train --format parquet --output weights.parquet
    uv run python examples/weighted_trainer.py --model MODEL --weights weights.parquet

The table has ids, so the model must read the critic's vocabulary; any other trainer can take it in the same way.
"""

import argparse
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments


def rows_of(table: Path) -> list[dict[str, list[Any]]]:
    """The table's correct programs; labels are -100 on the prompt."""
    rows = [row for row in pq.read_table(table).to_pylist() if row["is_correct"]]
    return [
        {
            "input_ids": row["input_ids"],
            "labels": [-100] * row["response_start"] + row["input_ids"][row["response_start"] :],
            "weights": row["weights"],
        }
        for row in rows
    ]


def collate(rows: list[dict[str, list[Any]]]) -> dict[str, Tensor]:
    """Padded on the right, (B, T) each."""
    longest = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": 0, "labels": -100, "weights": 0.0}
    padded = {
        name: torch.tensor([row[name] + [value] * (longest - len(row[name])) for row in rows])
        for name, value in fill.items()
    }
    real = torch.tensor([[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows])
    return {**padded, "attention_mask": real}


class WeightedTrainer(Trainer):
    """A Trainer whose loss is Σ w_t · CE_t over learned tokens."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        weights, labels = inputs.pop("weights"), inputs.pop("labels")
        outputs = model(**inputs)
        targets = labels[:, 1:].flatten()
        losses = F.cross_entropy(outputs.logits[:, :-1].flatten(0, 1).float(), targets, reduction="none")
        count = num_items_in_batch if num_items_in_batch is not None else (targets != -100).sum()
        loss = (losses * weights[:, 1:].flatten()).sum() / count
        return (loss, outputs) if return_outputs else loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or hub id of a causal LM")
    parser.add_argument("--weights", type=Path, required=True, help="what `wmtp weights --format parquet` wrote")
    parser.add_argument("--output", type=Path, default=Path("weighted-model"))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-5)
    options = parser.parse_args()

    model = AutoModelForCausalLM.from_pretrained(options.model, trust_remote_code=True)
    training = TrainingArguments(
        output_dir=str(options.output / "checkpoints"),
        max_steps=options.steps,
        per_device_train_batch_size=options.batch,
        learning_rate=options.lr,
        remove_unused_columns=False,  # the weights are no argument of the model
        logging_steps=1,
        save_strategy="no",
        report_to=[],
    )
    WeightedTrainer(model, training, train_dataset=rows_of(options.weights), data_collator=collate).train()
    model.save_pretrained(options.output)
    print(options.output)


if __name__ == "__main__":
    main()
