"""`wmtp data`"""

import os
from pathlib import Path
from typing import Annotated

import typer

from weighted_mtp.pipelines.command import USER_ERROR, Debug, comma_list, user_errors


def main(
    datasets: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated, of micro, humaneval, mbpp, gsm8k, codecontests, humaneval+, mbpp+, "
            "codecontests_pairs, llm_pairs, condefects; or all, which is the first five. micro is generated; "
            "humaneval+, mbpp+ and the pair datasets come only from --source. Or those that were imported."
        ),
    ] = None,
    imported: Annotated[
        Path | None,
        typer.Option(
            "--import",
            help="Your own problems instead: a file of JSON lines or Parquet, or a folder with train, validation and "
            "test of them. docs/DATA.md has the fields.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="With --import: what the dataset is called from then on.")] = None,
    steps: Annotated[
        str,
        typer.Option(
            help="Comma-separated. process: all splits from upstream's files. eval: evaluation splits only. "
            "metadata: the index that sampling reads. small: a slice named <dataset>-small. stats: counts, lengths, "
            "label balance, with a picture. tests: run the evaluation splits' own solutions in the sandbox. Or all. An "
            "import runs tests, too, where this machine can."
        ),
    ] = "process,metadata,stats",
    source: Annotated[
        Path | None,
        typer.Option(help="Folder with the datasets' own files (or a folder of each), in place of the hub."),
    ] = None,
    languages: Annotated[
        str, typer.Option(help="Languages to keep of python2, cpp, python3, java; comma-separated, or all.")
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
    seed: Annotated[int, typer.Option(help="Seed for the slice.", min=0)] = 0,
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
        from weighted_mtp.data.preparation.registry import ALL, own_dataset
        from weighted_mtp.data.preparation.shards import Options
        from weighted_mtp.data.preparation.subsets import SliceOptions
        from weighted_mtp.data.sources.codecontests import LANGUAGES
        from weighted_mtp.parallel import cores
        from weighted_mtp.pipelines.setup_datasets import STEPS, DatasetRequest, known, setup
        from weighted_mtp.progress import say

        chosen = _chosen(datasets, imported, name, source)
        own = own_dataset(chosen, imported) if imported is not None else None
        wanted = [",".join(ALL) if each.strip() == "all" else each for each in chosen.split(",")]
        request = DatasetRequest(
            storage,
            imported or source,
            Options(
                comma_list("--languages", languages, LANGUAGES), max_problems, max_solution_characters,
                keep_contaminated,
            ),
            SliceOptions(small_problems, small_solutions, seed),
            tokenizer,
            tests_per_split,
            workers or cores(),
            own,
        )  # fmt: skip
        failures = setup(
            (own.name,) if own else comma_list("--datasets", ",".join(wanted), known(storage)),
            comma_list("--steps", steps + _tested(own is not None, steps), tuple(STEPS)),
            request,
            debug,
        )
    for line in failures:
        say(f"error: {line}")
    if failures:
        raise typer.Exit(USER_ERROR)
    if imported is not None:
        print(f"next: wmtp recipe {name} --model MODEL{'' if storage == Path('storage') else f' --storage {storage}'}")


def _chosen(datasets: str | None, imported: Path | None, name: str | None, source: Path | None) -> str:
    """The datasets that are meant. Raises UserError where that is not clear."""
    from weighted_mtp.errors import UserError

    if (datasets is None) == (imported is None):
        raise UserError("give either --datasets NAMES, or --import FILE with --name NAME")
    if (imported is None) != (name is None):
        raise UserError(
            f"--import goes with --name: give {'--import FILE' if imported is None else '--name NAME'}, too"
        )
    if imported is not None and source is not None:
        raise UserError(f"--source {source} has no effect with --import, which names the file itself: leave it out")
    return datasets or name or ""


def _tested(is_own: bool, steps: str) -> str:
    """The step that executes an imported dataset's programs, unless other steps were asked for or it cannot be done."""
    if not is_own or steps != "process,metadata,stats":
        return ""
    from weighted_mtp.progress import say
    from weighted_mtp.sandbox.confinement import offered

    if offered().is_enough:
        return ",tests"
    say(f"programs are not executed to check their labels: {offered()} do not isolate them well enough")
    return ""
