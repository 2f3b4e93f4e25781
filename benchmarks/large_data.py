"""Data of CodeContests' size: preparation against a plain `datasets.map` of the same work, and a training run's start.

    uv run python benchmarks/large_data.py --output DIR [--solutions 1000000] [--small 100000] [--workers 2]

A drawn corpus (synthetic_corpus.py) is prepared in processes of their own, so that each has its own peak of memory:

- rows a second (solutions read) of `process` and `metadata`: parsed, filtered, decontaminated, written, lengths in
  tokens; against one `datasets.map` that calls the same functions row by row, with one process and with `--workers`;
- the peak of resident memory, of the process and of all its processes together, at `--small` and at `--solutions`;
- whether 1, 2 and 4 workers, and a preparation killed half-way and given again, write the same bytes (at `--small`);
- seconds to the first batch of a run, when the tokens are made and when they are there.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from synthetic_corpus import Corpus

STAGES = ("ours", "plain", "start")


def tree(root: int) -> list[int]:
    """A process and all below it."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        parents.setdefault(parent, []).append(int(folder.name))
    found = [root]
    for process in found:
        found += parents.get(process, [])
    return found


def resident(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) >> 10
    except OSError:
        return 0


class Peak(threading.Thread):
    """Megabytes that a process held at most, and it and its children together."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.process, self.own, self.all, self.stopped = process, 0, 0, threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(1.0):
            sizes = [resident(each) for each in tree(self.process)]
            self.own, self.all = max(self.own, sizes[0]), max(self.all, sum(sizes))


def cpu_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system


def stage(name: str, *arguments: object, kill_after: Path | None = None) -> dict[str, Any]:
    """Run a stage in a process of its own; what it prints, and its peaks."""
    command = [sys.executable, str(Path(__file__).resolve()), name, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak, before = Peak(process.pid), cpu_seconds()
    peak.start()
    if kill_after is not None:
        while process.poll() is None and len(list(kill_after.rglob("account.json"))) < 5:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    out = process.communicate()[0]
    peak.stopped.set()
    if kill_after is None and process.returncode != 0:
        raise SystemExit(f"{command} failed")
    return {**(json.loads(out.splitlines()[-1]) if process.returncode == 0 else {}), "own": peak.own, "all": peak.all,
            "cpu": cpu_seconds() - before}  # fmt: skip


def ours(source: Path, storage: Path, tokenizer: Path, workers: int) -> dict[str, float]:
    os.environ["RAYON_NUM_THREADS"] = str(workers)
    from weighted_mtp.data.index import write_index
    from weighted_mtp.data.prepare import prepare

    start = time.monotonic()
    manifest, _ = prepare("codecontests", storage, source, workers=workers)
    middle = time.monotonic()
    for split in manifest["splits"]:
        write_index(storage / "datasets" / "codecontests" / split, tokenizer)
    return {"seconds": time.monotonic() - start, "process": middle - start}


def plain(source: Path, cache: Path, tokenizer: Path, workers: int) -> dict[str, float]:
    os.environ["RAYON_NUM_THREADS"] = str(workers)
    from datasets import disable_progress_bars, load_dataset
    from transformers import AutoTokenizer

    from weighted_mtp.data.decontaminate import ContaminationCheck
    from weighted_mtp.data.sources import codecontests
    from weighted_mtp.data.sources.rows import Reading, Row

    disable_progress_bars()
    start = time.monotonic()
    counted = AutoTokenizer.from_pretrained(str(tokenizer))
    files = {s: sorted(map(str, (source / "data").glob(f"{s}-*"))) for s in ("train", "valid", "test")}
    data = load_dataset("parquet", data_files=files, cache_dir=str(cache))
    reading = Reading("codecontests", "train")
    evaluated = [codecontests.entry(Row(0, row, ""), reading) for s in ("valid", "test") for row in data[s]]
    check = ContaminationCheck((e.problem for e in evaluated), (s for e in evaluated for s in e.solutions))

    def work(row: dict[str, Any]) -> dict[str, Any]:
        entry = codecontests.entry(Row(0, row, ""), reading)
        solutions = entry.solutions
        if check.find(entry.problem, solutions) is not None:
            solutions = []
        codes = [solution.code for solution in solutions]
        lengths = [len(ids) for ids in counted(codes, add_special_tokens=False)["input_ids"]] if codes else []
        tests = [vars(test) for test in entry.problem.tests]
        return {
            **{name: value for name, value in vars(entry.problem).items() if name != "tests"},
            "tests": tests,
            "programs": [{**vars(s), "spans": []} for s in solutions],
            "lengths": lengths,
        }

    kept = data["train"].map(
        work,
        remove_columns=data["train"].column_names,
        num_proc=workers if workers > 1 else None,
        writer_batch_size=100,
    )
    return {"seconds": time.monotonic() - start, "kept": sum(map(len, kept["lengths"]))}


def start(storage: Path, tokenizer: Path) -> dict[str, float]:
    begin = time.monotonic()
    from transformers import AutoTokenizer

    from weighted_mtp.data.load import DataConfig, load_stores
    from weighted_mtp.data.stream import BatchStream

    imported = time.monotonic()
    config = DataConfig(root=storage / "datasets", dataset="codecontests", max_tokens=8192)
    train, _ = load_stores(config, AutoTokenizer.from_pretrained(str(tokenizer)), seed=0)
    loaded = time.monotonic()
    batches = BatchStream(train, config.max_tokens, 4, 0, 0).at(0)
    done = time.monotonic()
    return {
        "imports": imported - begin,
        "load": loaded - imported,
        "first batch": done - loaded,
        "samples": len(train),
        "rows": sum(len(batch.input_ids) for batch in batches),
    }


def digest(folder: Path) -> str:
    sums = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            sums.update(f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return sums.hexdigest()


def same_bytes(source: Path, output: Path, tokenizer: Path) -> None:
    seen = {}
    for workers in (1, 2, 4):
        stage("ours", source, output / "same", tokenizer, workers)
        seen[f"{workers} workers"] = digest(output / "same" / "datasets" / "codecontests")
        shutil.rmtree(output / "same")
    parts = output / "same" / "datasets" / ".codecontests.parts"
    stage("ours", source, output / "same", tokenizer, 2, kill_after=parts)
    finished = len(list(parts.rglob("account.json")))
    stage("ours", source, output / "same", tokenizer, 2)
    seen[f"killed after {finished} parts, given again"] = digest(output / "same" / "datasets" / "codecontests")
    for name, found in seen.items():
        print(f"{name:40} sha256 {found[:16]}")
    print("the same bytes" if len(set(seen.values())) == 1 else "DIFFERENT BYTES", flush=True)
    shutil.rmtree(output / "same")


def corpus(folder: Path, solutions: int, characters: float) -> Path:
    if not folder.exists():
        shutil.rmtree(folder.with_name("partial"), ignore_errors=True)
        Corpus(characters=characters).write(folder.with_name("partial"), solutions)
        folder.with_name("partial").rename(folder)
    return folder


def train_tokenizer(source: Path, folder: Path) -> Path:
    import pyarrow.parquet as pq

    from weighted_mtp.data.sources.micro import train_tokenizer

    rows = pq.read_table(next((source / "data").glob("valid-*")), columns=["solutions"])["solutions"].to_pylist()
    train_tokenizer([code for row in rows for code in row["solution"]], 4_000).save_pretrained(folder)
    return folder


def show(title: str, n: int, found: dict[str, Any]) -> float:
    rate = n / found["seconds"]
    print(
        f"{title:40} {n:9,} rows {found['seconds']:7.1f} s {rate:8,.0f} rows/s, {found['cpu']:6.0f} s of CPU, "
        f"peak {found['own']:5} MB, {found['all']:5} MB with children",
        flush=True,
    )
    return rate


def main() -> None:
    if sys.argv[1:2] and sys.argv[1] in STAGES:
        paths = [Path(each) for each in sys.argv[2:]]
        run = {"ours": ours, "plain": plain}.get(sys.argv[1])
        print(json.dumps(run(*paths[:3], int(sys.argv[5])) if run else start(*paths)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the corpus and what is made of it")
    parser.add_argument("--solutions", type=int, default=1_000_000)
    parser.add_argument("--small", type=int, default=100_000)
    parser.add_argument("--characters", type=float, default=500, help="of a program, the median")
    parser.add_argument("--peer", choices=("small", "both"), default="both", help="sizes that datasets.map does, too")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    output, workers = options.output, options.workers
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}, programs of {options.characters:.0f} characters",
        flush=True,
    )
    small, large = (
        corpus(output / f"source-{n}-{options.characters:.0f}", n, options.characters)
        for n in (options.small, options.solutions)
    )
    tokenizer = train_tokenizer(small, output / "tokenizer")
    same_bytes(small, output, tokenizer)
    for n, source in ((options.small, small), (options.solutions, large)):
        shutil.rmtree(output / "storage", ignore_errors=True)
        rate = show(f"wmtp data, {workers} workers", n, stage("ours", source, output / "storage", tokenizer, workers))
        for processes in sorted({1, workers}) if n == options.small or options.peer == "both" else ():
            peer = stage("plain", source, output / "cache", tokenizer, processes)
            shutil.rmtree(output / "cache")
            ratio = rate / show(f"datasets.map, {processes} processes", n, peer)
            print(f"    wmtp data is {ratio:.2f} times as fast", flush=True)
    for title in ("tokens are made", "tokens are there", "tokens are there"):
        found = stage("start", output / "storage", tokenizer)
        parts = ", ".join(f"{name} {found[name]:.1f} s" for name in ("imports", "load", "first batch"))
        print(f"start, {title}: {found['samples']:,} samples, {parts}; peak {found['own']} MB", flush=True)


if __name__ == "__main__":
    main()
