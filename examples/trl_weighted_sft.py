"""Weighted SFT in TRL: its SFTTrainer, with the loss of each token times its weight.

    uv run --group trl python examples/trl_weighted_sft.py --model MODEL --weights weights.parquet

The table is what `wmtp weights --format parquet` writes. Rows, collator and loss are those of `weighted_trainer.py`;
TRL sees a dataset that is tokenized already.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer
from weighted_trainer import WeightedTrainer, collate, rows_of


class WeightedSFTTrainer(SFTTrainer):
    """TRL's trainer with the weighted loss."""

    def compute_loss(self, *arguments: Any, **options: Any) -> Any:
        return WeightedTrainer.compute_loss(self, *arguments, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("weighted-model"))
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()

    training = SFTConfig(
        output_dir=str(options.output),
        max_steps=options.steps,
        per_device_train_batch_size=4,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        bf16=torch.cuda.is_available(),  # TRL's default, which its checks refuse on a CPU
        use_cpu=not torch.cuda.is_available(),
        logging_steps=1,
        save_strategy="no",
        report_to=[],
    )
    trainer = WeightedSFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(options.model, trust_remote_code=True),
        args=training,
        train_dataset=Dataset.from_list(rows_of(options.weights)),
        data_collator=collate,
        processing_class=AutoTokenizer.from_pretrained(options.model),
    )
    trainer.train()
    trainer.save_model(str(options.output))
    print(options.output)


if __name__ == "__main__":
    main()
