"""What works on this machine, and what to do about the rest; can it confine hostile programs?

    uv run wmtp doctor

Looks at packages, device, precision, disk, storage, token and extras, says what there is to keep hostile programs in,
and tries that out with the attacks of `sandbox/attacks`. Exits with 1 if something will not work here.
"""

import json
import os
import platform
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from weighted_mtp.pipelines.environment import Check, environment
from weighted_mtp.progress import progress
from weighted_mtp.sandbox.attacks import CLASSES, Finding, attacks, run_attacks
from weighted_mtp.sandbox.confinement import SCRATCH_MB, lacks, landlock_abi, offered, why_no_namespaces

BAD = 1


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


def _attacks_table(findings: Sequence[Finding]) -> Table:
    table = Table("attacks", Column("tried", justify="right"), Column("held", justify="right"), "ended", box=None)
    for kind in CLASSES:
        of_kind = [finding for finding in findings if finding.attack.kind == kind and finding.outcomes]
        held = sum(not finding.wrong for finding in of_kind)
        statuses = Counter(outcome.status for finding in of_kind for outcome in finding.outcomes)
        ended = ", ".join(f"{n} {status.replace('_', ' ')}" for status, n in statuses.most_common())
        colour = "green" if held == len(of_kind) else "red"
        table.add_row(kind, str(len(of_kind)), f"[{colour}]{held}", ended)
    return table


def examine(storage: Path, try_attacks: bool, as_json: bool) -> bool:
    """Say what this machine and environment offer, what keeps programs in here, and how it holds; whether all works.

    as_json  one JSON object on standard output, in place of tables
    """
    checks = environment(storage)
    findings = try_out() if try_attacks and offered().is_enough else []
    checks.append(_isolation(findings))
    if as_json:
        print(json.dumps(_facts(checks, findings), indent=2))
    else:
        _show(checks, findings)
    return all(check.state != "bad" for check in checks)


def _isolation(findings: Sequence[Finding]) -> Check:
    if not offered().is_enough:
        return Check(
            "isolation",
            "bad",
            f"evaluation is not safe here, and refuses: {lacks()}",
            "evaluate on Linux 6.2 or newer, or accept the risk with --unsafe-execution",
        )
    if bad := [finding.attack.name for finding in findings if finding.wrong]:
        found = f"evaluation is not safe here: {len(bad)} attacks were not held, such as {bad[0]}"
        return Check("isolation", "bad", found, "evaluate on another machine, and report this")
    tried = "" if findings else "; not tried out"
    return Check("isolation", "good", f"evaluation is safe here: {offered()}{tried}")


def _facts(checks: Sequence[Check], findings: Sequence[Finding]) -> dict[str, Any]:
    return {
        "checks": [asdict(check) for check in checks],
        "isolation": {name: {"here": is_there, "found": words} for name, is_there, words in offers()},
        "attacks": {
            "tried": len(findings),
            "not_held": {finding.attack.name: list(finding.wrong) for finding in findings if finding.wrong},
        },
    }


def _show(checks: Sequence[Check], findings: Sequence[Finding]) -> None:
    console = Console()
    console.print(_checks_table(checks))
    console.print()
    console.print(_offers_table())
    if findings:
        console.print()
        console.print(_attacks_table(findings))
    for finding in findings:
        if finding.wrong:
            console.print(
                f"[red]{finding.attack.kind}: {finding.attack.name}[/]: {'; '.join(finding.wrong)}", soft_wrap=True
            )
    console.print(f"\n{checks[-1].found}", highlight=False, soft_wrap=True)


def _checks_table(checks: Sequence[Check]) -> Table:
    table = Table("", "", Column("found", overflow="fold"), Column("what to do", overflow="fold"), box=None)
    for check in checks:
        table.add_row(check.name, f"[{_COLOURS[check.state]}]{check.state}", escape(check.found), escape(check.fix))
    return table


_COLOURS = {"good": "green", "limited": "yellow", "bad": "red"}
