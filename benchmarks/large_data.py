"""Data of CodeContests' size: preparation against a plain `datasets.map` of the same work, and a training run's start.

    uv run python benchmarks/large_data.py --output DIR [--parts rates,bytes,memory,start]

A drawn corpus (synthetic_corpus.py) is prepared in processes of their own. Their clock starts when they have imported
what they need; workers start, and import, while it runs.

rates   solutions read a second at `--compared` solutions, here and with `datasets.map` (plain_map.py), in turn for
        `--rounds` rounds, with as many processes (here only one where the files are small). Medians, lowest and
        highest; so the ratios, taken round by round. `datasets.map` once searches for overlaps by itself, and once it
        calls our search. The programs that come out must be the same.
bytes   whether 1, 2 and 4 workers, and a preparation that is killed (SIGKILL) half-way and given again, write the
        same, at `--small` solutions
memory  peaks at `--small` and at `--solutions` solutions: resident memory of the largest process, and the sum over all
        processes, in which a page that several share counts once
start   seconds to the first batch of a run on what `memory` prepared last, when tokens are made and when they are there
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
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from measured import spread
from synthetic_corpus import Corpus

Found = dict[str, Any]
"""What a stage tells of itself, and "cpu" seconds without its imports, "largest" and "all" megabytes."""


def processes(root: int) -> list[int]:
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


def megabytes(process: int, file: str, line: str) -> float:
    """A line of a process's accounts, such as VmHWM of `status`; 0 if the process has ended."""
    try:
        lines = Path(f"/proc/{process}/{file}").read_text().splitlines()
    except OSError:
        return 0
    return next((int(each.split()[1]) / 1024 for each in lines if each.startswith(f"{line}:")), 0)


class Peak(threading.Thread):
    """Megabytes that the largest of a process and its children held at most, and that all held together."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.process, self.largest, self.all, self.stopped = process, 0.0, 0.0, threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(0.5):
            each = processes(self.process)
            self.largest = max(self.largest, *(megabytes(process, "status", "VmHWM") for process in each))
            self.all = max(self.all, sum(megabytes(process, "smaps_rollup", "Pss") for process in each))


def cpu_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system


def stage(name: str, *arguments: object, kill_when: Callable[[], bool] | None = None) -> Found:
    """Run one of STAGES in a process of its own, and kill it when told to."""
    before = cpu_seconds()
    command = [sys.executable, str(Path(__file__).resolve()), name, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = Peak(process.pid)
    peak.start()
    while kill_when is not None and process.poll() is None:
        if kill_when():
            process.send_signal(signal.SIGKILL)
        time.sleep(0.01)
    out = process.communicate()[0]
    peak.stopped.set()
    if process.returncode != (0 if kill_when is None else -signal.SIGKILL):
        raise SystemExit(f"{command} ended with {process.returncode}")
    found = json.loads(out.splitlines()[-1]) if kill_when is None else {}
    cpu = cpu_seconds() - before - found.get("not work", 0)
    return {**found, "cpu": cpu, "largest": peak.largest, "all": peak.all}


def ours(source: Path, storage: Path, workers: str) -> Found:
    import pyarrow.parquet as pq

    from weighted_mtp.data.preparation.prepare import prepare

    begin, imports = time.monotonic(), time.process_time()
    manifest, _ = prepare("codecontests", storage, source, workers=int(workers))
    seconds, work = time.monotonic() - begin, time.process_time()

    def programs() -> Iterator[tuple[str, str, bool]]:
        file = storage / "datasets" / "codecontests" / "train" / "solutions.parquet"
        for batch in pq.ParquetFile(file).iter_batches(2_000, columns=["problem_id", "code", "is_correct"]):
            for row in batch.to_pylist():
                yield row["problem_id"].removeprefix("codecontests/codeforces/"), row["code"], row["is_correct"]

    kept = manifest["splits"]["train"]
    found = {"seconds": seconds, "problems": kept["problems"], "programs": kept["correct"] + kept["incorrect"]}
    return {**found, "content": content(programs()), "not work": imports + time.process_time() - work}


def plain(source: Path, cache: Path, workers: str, search: str) -> Found:
    import plain_map

    begin, imports = time.monotonic(), time.process_time()
    kept = plain_map.prepare(source, cache, int(workers), search)
    seconds, work = time.monotonic() - begin, time.process_time()
    programs = ((row["name"], p["code"], p["is_correct"]) for row in kept for p in row["programs"])
    found = {"seconds": seconds, "problems": len(kept), "programs": sum(map(len, kept["programs"]))}
    return {**found, "content": content(programs), "not work": imports + time.process_time() - work}


def content(programs: Iterable[tuple[str, str, bool]]) -> str:
    digest = hashlib.sha256()
    for program in programs:
        digest.update(repr(program).encode())
    return digest.hexdigest()


def start(storage: Path, tokenizer: Path) -> Found:
    begin = time.monotonic()
    from transformers import AutoTokenizer

    from weighted_mtp.data.load import DataConfig, load_stores
    from weighted_mtp.data.stream import BatchStream

    imported = time.monotonic()
    config = DataConfig(root=storage / "datasets", dataset="codecontests", max_tokens=8192)
    train, _ = load_stores(config, AutoTokenizer.from_pretrained(str(tokenizer)), seed=0)
    loaded = time.monotonic()
    BatchStream(train, config.max_tokens, 4, 0).at(0)
    times = {"imports": imported - begin, "stores": loaded - imported, "first step": time.monotonic() - loaded}
    return {**times, "samples": len(train)}


STAGES: dict[str, Callable[..., Found]] = {"ours": ours, "plain": plain, "start": start}


def rates(source: Path, output: Path, n: int, rounds: int, workers: int, searches: list[str]) -> None:
    sides = {"wmtp data": ("ours", source, output / "rates", workers)}
    for search in searches:
        sides[f"datasets.map, search: {search}"] = ("plain", source, output / "rates", workers, search)
    runs: dict[str, list[Found]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            runs[name].append(stage(*side))
            shutil.rmtree(output / "rates")
    if (
        len({tuple(found[key] for key in ("problems", "programs", "content")) for r in runs.values() for found in r})
        > 1
    ):
        raise SystemExit(f"not the same programs: {runs}")
    print(f"{n:,} solutions, up to {workers} processes, the same {runs['wmtp data'][0]['programs']:,} programs kept")
    for name, found in runs.items():
        times = {key: [each[key] for each in found] for key in ("seconds", "cpu")}
        more = {key: spread([b / a[key] for a, b in zip(runs["wmtp data"], values, strict=True)], 1)
                for key, values in times.items()}  # fmt: skip
        print(
            f"{name:26} {spread([n / s for s in times['seconds']], 0)} a second, {spread(times['cpu'], 1)} s of CPU; "
            f"takes {more['seconds']} times as long, {more['cpu']} times the CPU",
            flush=True,
        )


def same_bytes(source: Path, output: Path) -> None:
    storage, seen = output / "same", {}
    prepared, parts = (storage / "datasets" / name for name in ("codecontests", ".codecontests.parts"))

    def finished() -> int:
        return len(list(parts.rglob("account.json")))

    for workers in (1, 2, 4):
        stage("ours", source, storage, workers)
        seen[f"{workers} workers"] = digest(prepared)
        shutil.rmtree(storage)
    half = len(list((source / "data").iterdir())) // 2
    stage("ours", source, storage, 2, kill_when=lambda: finished() >= half)
    left = f"{finished()} of {2 * half} parts" + (" and a whole dataset" if prepared.exists() else "")
    stage("ours", source, storage, 2)
    seen[f"killed with {left}, given again"] = digest(prepared)
    shutil.rmtree(storage)
    for name, found in seen.items():
        print(f"{name:45} sha256 {found[:16]}")
    print("the same bytes" if len(set(seen.values())) == 1 else "DIFFERENT BYTES", flush=True)


def digest(folder: Path) -> str:
    sums = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        sums.update(f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return sums.hexdigest()


def memory(sources: dict[int, Path], output: Path, workers: int) -> None:
    before: Found = {}
    for n, source in sources.items():
        shutil.rmtree(output / "storage", ignore_errors=True)
        found = stage("ours", source, output / "storage", workers)
        growth = ", ".join(f"{key} {found[key] / before[key] - 1:+.1%}" for key in ("largest", "all")) if before else ""
        print(
            f"{n:,} solutions, {workers} workers: {found['seconds']:.0f} s, {n / found['seconds']:,.0f} a second, "
            f"{found['cpu']:.0f} s of CPU; peak {found['largest']:.0f} MB, all {found['all']:.0f} MB {growth}",
            flush=True,
        )
        before = found


def starts(source: Path, output: Path) -> None:
    tokenizer = train_tokenizer(source, output / "tokenizer")
    for title in ("tokens are made", "tokens are there", "tokens are there"):
        found = stage("start", output / "storage", tokenizer)
        parts = ", ".join(f"{name} {found[name]:.1f} s" for name in ("imports", "stores", "first step"))
        print(f"start, {title}: {found['samples']:,} samples, {parts}; peak {found['largest']:.0f} MB", flush=True)


def train_tokenizer(source: Path, folder: Path) -> Path:
    import pyarrow.parquet as pq

    from weighted_mtp.data.sources.micro import train_tokenizer

    rows = pq.read_table(next((source / "data").glob("valid-*")), columns=["solutions"])["solutions"].to_pylist()
    train_tokenizer([code for row in rows for code in row["solution"]], 4_000).save_pretrained(folder)
    return folder


def corpus(output: Path, solutions: int) -> Path:
    folder = output / f"source-{solutions}"
    if not folder.exists():
        partial = output / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        Corpus().write(partial, solutions)
        partial.rename(folder)
    return folder


def main() -> None:
    if sys.argv[1:2] and sys.argv[1] in STAGES:
        name, first, second, *more = sys.argv[1:]
        print(json.dumps(STAGES[name](Path(first), Path(second), *more)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the corpus and what is made of it")
    parser.add_argument("--parts", default="rates,bytes,memory,start")
    parser.add_argument("--compared", type=int, default=20_000)
    parser.add_argument("--searches", default="own,ours", help="for overlaps, that datasets.map calls")
    parser.add_argument("--small", type=int, default=100_000)
    parser.add_argument("--solutions", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    output, parts = options.output, options.parts.split(",")
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}",
        flush=True,
    )
    if "rates" in parts:
        compared = corpus(output, options.compared)
        rates(compared, output, options.compared, options.rounds, options.workers, options.searches.split(","))
    if "bytes" in parts:
        same_bytes(corpus(output, options.small), output)
    if "memory" in parts:
        memory({n: corpus(output, n) for n in (options.small, options.solutions)}, output, options.workers)
    if "start" in parts:
        starts(corpus(output, options.small), output)


if __name__ == "__main__":
    main()
