"""Token weights of a whole split as a Parquet file, for trainers that know nothing of this package.

A row is a program: `sample_id`, `is_correct`, `response_start`, and as lists of one length over prompt and response
`input_ids`, `tokens` (their text), `weights` and `delta`. Weights are 1 and δ is 0 outside the response.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from weighted_mtp.data.tables import read_problems, read_solutions
from weighted_mtp.errors import UserError
from weighted_mtp.files import atomic_file
from weighted_mtp.pipelines.token_weights import batches_of, token_texts
from weighted_mtp.pipelines.weight_source import WeightSource
from weighted_mtp.progress import say


def write_weights_table(source: WeightSource, directory: Path, n_problems: int | None, output: Path) -> int:
    """Write the programs of a split's first problems (None: of all); returns how many.

    Programs longer than the run's data.max_length are left out, and counted. Weights that differ by head are refused:
    other trainers have one head.
    """
    problems = read_problems(directory)[:n_problems]
    names = {problem.problem_id for problem in problems}
    solutions = [solution for solution in read_solutions(directory) if solution.problem_id in names]
    store, batches = batches_of(source, problems, solutions)
    if store.n_dropped:
        say(f"{store.n_dropped} programs are longer than data.max_length={source.max_length}: left out")
    is_correct = {solution.solution_id: solution.is_correct for solution in solutions}
    weights = source.weights(batches, [is_correct[name] for name in store.sample_ids])
    if weights[0].ndim == 3:
        raise UserError("--format parquet: this run's weights differ by head (weighting.head_strengths); give --critic")
    columns: dict[str, list[object]] = {name: [] for name in SCHEMA.names}
    for row, (batch, weight) in enumerate(zip(batches, weights, strict=True)):
        ids, start = batch.input_ids[0].tolist(), int(store.response_start[row])
        prompt = [""] * start
        columns["sample_id"].append(store.sample_ids[row])
        columns["is_correct"].append(is_correct[store.sample_ids[row]])
        columns["response_start"].append(start)
        columns["input_ids"].append(ids)
        columns["tokens"].append(prompt + token_texts(source.tokenizer, ids[:start], ids[start:]))
        columns["weights"].append(weight[0].masked_fill(~batch.response_mask[0], 1.0).tolist())
        columns["delta"].append(source.judgement.of(batch)[0].masked_fill(~batch.response_mask[0], 0.0).tolist())
    with atomic_file(output) as partial:
        pq.write_table(pa.table(columns, schema=SCHEMA), partial)
    return len(store)


SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("is_correct", pa.bool_()),
        ("response_start", pa.int32()),
        ("input_ids", pa.list_(pa.int32())),
        ("tokens", pa.list_(pa.string())),
        ("weights", pa.list_(pa.float32())),
        ("delta", pa.list_(pa.float32())),
    ]
)
