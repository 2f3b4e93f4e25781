"""`wmtp data`"""

import os
from pathlib import Path
from typing import Annotated

import typer

from weighted_mtp.pipelines.command import USER_ERROR, Debug, comma_list, user_errors


def main(
    datasets: Annotated[
        str,
        typer.Option(
            help="Comma-separated, of micro, humaneval, mbpp, gsm8k, codecontests, humaneval+, mbpp+, "
            "codecontests_pairs, llm_pairs, condefects; or all, which is the first five. micro is generated; "
            "humaneval+, mbpp+ and the pair datasets come only from --source."
        ),
    ],
    steps: Annotated[
        str,
        typer.Option(
            help="Comma-separated. process: all splits from upstream's files. eval: evaluation splits only. "
            "metadata: the index that sampling reads. small: a slice named <dataset>-small. stats: counts, lengths, "
            "label balance, with a picture. tests: run the evaluation splits' own solutions in the sandbox. Or all."
        ),
    ] = "process,metadata,stats",
    source: Annotated[
        Path | None,
        typer.Option(help="Folder with the datasets' own files (or a folder of each), in place of the hub."),
    ] = None,
    languages: Annotated[
        str, typer.Option(help="Of solutions to keep: python2, cpp, python3, java; comma-separated, or all.")
    ] = "python3",
    max_problems: Annotated[
        int | None, typer.Option(help="Only the first N problems of each split, for a quick look.", min=1)
    ] = None,
    max_solution_characters: Annotated[
        int, typer.Option(help="Longer solutions are dropped, and counted.", min=1)
    ] = 100_000,
    keep_contaminated: Annotated[
        bool,
        typer.Option(
            "--keep-contaminated", help="Report training problems that overlap an evaluation set, but keep them."
        ),
    ] = False,
    tokenizer: Annotated[
        str | None, typer.Option(help="Folder or hub id: the index holds lengths in its tokens, not in characters.")
    ] = None,
    small_problems: Annotated[int, typer.Option(help="Problems of each split of the slice.", min=1)] = 100,
    small_solutions: Annotated[int, typer.Option(help="Solutions of each problem and label in the slice.", min=1)] = 8,
    seed: Annotated[int, typer.Option(help="Of the slice.", min=0)] = 0,
    tests_per_split: Annotated[int, typer.Option(help="Solutions of each split that tests runs.", min=1)] = 200,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes that read, threads that tokenize, programs that tests runs. Default: one per core.", min=1
        ),
    ] = None,
    storage: Annotated[Path, typer.Option(help="Folder for datasets and downloads.")] = Path("storage"),
    debug: Debug = False,
) -> None:
    """Prepare datasets: problems with their tests, correct and incorrect solutions, in one schema for all.

    Files come from the hub, or from --source if there is no network. Training splits are compared with every
    evaluation set that is prepared, and what overlaps is dropped. If a dataset fails, the others continue; the exit
    code is then 2.
    """
    if workers is not None:
        os.environ["RAYON_NUM_THREADS"] = str(workers)  # for the tokenizer, which otherwise takes all cores
    with user_errors(debug):
        from weighted_mtp.data.preparation.registry import ALL, NAMES
        from weighted_mtp.data.preparation.shards import Options
        from weighted_mtp.data.preparation.subsets import SliceOptions
        from weighted_mtp.data.sources.codecontests import LANGUAGES
        from weighted_mtp.parallel import cores
        from weighted_mtp.pipelines.setup_datasets import STEPS, DatasetRequest, setup
        from weighted_mtp.progress import say

        wanted = [",".join(ALL) if name.strip() == "all" else name for name in datasets.split(",")]
        request = DatasetRequest(
            storage,
            source,
            Options(
                comma_list("--languages", languages, LANGUAGES), max_problems, max_solution_characters,
                keep_contaminated,
            ),
            SliceOptions(small_problems, small_solutions, seed),
            tokenizer,
            tests_per_split,
            workers or cores(),
        )  # fmt: skip
        failures = setup(
            comma_list("--datasets", ",".join(wanted), NAMES),
            comma_list("--steps", steps, tuple(STEPS)),
            request,
            debug,
        )
    for line in failures:
        say(f"error: {line}")
    if failures:
        raise typer.Exit(USER_ERROR)
