"""GRPO in TRL with the sandbox as its reward: 1 where a program passes its problem's tests, executed in isolation.

uv run wmtp data --import examples/own_data/problems.jsonl --name mine
uv run --group trl python examples/trl_grpo_sandbox.py --model MODEL --split storage/datasets/mine/train
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from weighted_mtp.data.tables import read_problems
from weighted_mtp.evaluation.benchmarks import AnswerForm, Benchmark
from weighted_mtp.parallel import cores
from weighted_mtp.sandbox import run_many

SCORED = Benchmark("own", stop=("\n```",), time_factor=1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a plain causal LM, as `wmtp models export` writes")
    parser.add_argument("--split", type=Path, required=True, help="folder of a prepared split, with tests")
    parser.add_argument("--output", type=Path, default=Path("grpo-model"))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--completion-length", type=int, default=256)
    options = parser.parse_args()

    problems = {problem.problem_id: problem for problem in read_problems(options.split) if problem.tests}
    rows = [{"prompt": f"{p.description}\n", "problem_id": p.problem_id} for p in problems.values()]

    def reward(completions: list[str], problem_id: list[str], **_: Any) -> list[float]:
        """TRL hands over the completions of a batch, and the dataset's columns beside them."""
        asked = [problems[name] for name in problem_id]
        programs = [
            SCORED.extracted(problem, text, AnswerForm.CHAT).program
            for problem, text in zip(asked, completions, strict=True)
        ]
        jobs = [SCORED.program_job(problem, program) for problem, program in zip(asked, programs, strict=True)]
        return [float(outcome.status == "passed") for outcome in run_many(jobs, cores())]

    training = GRPOConfig(
        output_dir=str(options.output),
        max_steps=options.steps,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=options.completion_length,
        bf16=torch.cuda.is_available(),  # TRL's default, which its checks refuse on a CPU
        use_cpu=not torch.cuda.is_available(),
        logging_steps=1,
        save_strategy="no",
        report_to=[],
    )
    trainer = GRPOTrainer(
        model=options.model,
        reward_funcs=reward,
        args=training,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(options.model),
    )
    trainer.train()
    trainer.save_model(str(options.output))
    print(options.output)


if __name__ == "__main__":
    main()
