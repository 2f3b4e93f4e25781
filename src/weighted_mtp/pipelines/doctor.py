"""Is it safe to execute programs here?

    uv run wmtp doctor

Says what this machine offers to keep hostile programs in, and tries it out with the attacks of `evaluation/attacks`.
Exits with 1 where evaluation is not safe here.
"""

import os
import platform
import sys
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from weighted_mtp.progress import progress
from weighted_mtp.sandbox.attacks import CLASSES, Finding, attacks, run_attacks
from weighted_mtp.sandbox.confinement import SCRATCH_MB, lacks, landlock_abi, offered, why_no_namespaces

UNSAFE = 1


def offers() -> list[tuple[str, bool, str]]:
    """(part of the isolation, whether it is there, in words) of this machine."""
    found = offered()
    namespaces = f"files hidden, no network, {SCRATCH_MB} MiB of scratch in memory"
    without = f"{why_no_namespaces() or 'none'}; a scratch folder is watched, metadata of files can be seen"
    abi = landlock_abi()
    return [
        (
            "system",
            sys.platform == "linux",
            f"{platform.system()} {platform.release()}, Python {sys.version.split()[0]}",
        ),
        ("user", True, f"uid {os.getuid()}" + (", whose rights programs do not get" if os.getuid() == 0 else "")),
        ("seccomp", found.system_calls, f"a list of allowed system calls, for {platform.machine()}"),
        ("Landlock", found.landlock, f"ABI {abi}" if abi else "none"),
        ("namespaces", found.namespaces, namespaces if found.namespaces else without),
        ("memory cgroup", _has_memory_cgroup(), "not needed: a program is one process, bounded by its address space"),
    ]


def _has_memory_cgroup() -> bool:
    root = Path("/sys/fs/cgroup")
    unified = root / "cgroup.controllers"
    return (root / "memory").is_dir() or (unified.is_file() and "memory" in unified.read_text().split())


def try_out() -> list[Finding]:
    """All attacks, under all isolation that there is."""
    chosen = attacks()
    with progress("attacks", len(chosen)) as advance:
        findings = []
        for finding in run_attacks(chosen):
            findings.append(finding)
            if finding.outcomes:
                advance(1, finding.attack.name)
    return findings


def _offers_table() -> Table:
    table = Table(Column("isolation"), "", Column("here", overflow="fold"), box=None)
    for name, is_there, words in offers():
        table.add_row(name, "[green]yes" if is_there else "[yellow]no", words)
    return table


def _attacks_table(findings: list[Finding]) -> Table:
    table = Table("attacks", Column("tried", justify="right"), Column("held", justify="right"), "ended", box=None)
    for kind in CLASSES:
        of_kind = [finding for finding in findings if finding.attack.kind == kind and finding.outcomes]
        held = sum(not finding.wrong for finding in of_kind)
        statuses = Counter(outcome.status for finding in of_kind for outcome in finding.outcomes)
        ended = ", ".join(f"{n} {status.replace('_', ' ')}" for status, n in statuses.most_common())
        colour = "green" if held == len(of_kind) else "red"
        table.add_row(kind, str(len(of_kind)), f"[{colour}]{held}", ended)
    return table


def examine(try_attacks: bool) -> bool:
    """Say what keeps programs in here, and how it holds; whether evaluation is safe."""
    console = Console()
    console.print(_offers_table())
    is_safe = offered().is_enough
    if try_attacks and is_safe:
        findings = try_out()
        console.print()
        console.print(_attacks_table(findings))
        bad = [finding for finding in findings if finding.wrong]
        for finding in bad:
            console.print(
                f"[red]{finding.attack.kind}: {finding.attack.name}[/]: {'; '.join(finding.wrong)}", soft_wrap=True
            )
        is_safe = not bad
    elif not is_safe:
        console.print(f"missing: {lacks()}", soft_wrap=True, highlight=False)
    console.print(
        f"\nevaluation is safe here: {offered()}"
        if is_safe
        else "\nevaluation is not safe here, and refuses unless --unsafe-execution accepts the risk",
        highlight=False,
    )
    return is_safe
