"""Which forging and reading programs do other harnesses count as correct? And this one?

    uv run --with evalplus python benchmarks/harness_attacks.py

The programs are those of `wmtp doctor`, of the classes that harm nothing but the verdict: forgery and theft. None of
them can know the right answer, so each that "passes" has forged it or has read what it must not. They meet the other
harnesses in an outer sandbox alone, in which the secret that they look for is laid out, too.
"""

import zlib

from peers import Peers, installed, task

from weighted_mtp.progress import progress
from weighted_mtp.sandbox.attacks import REMARK, Attack, attacks, run_attacks
from weighted_mtp.sandbox.confinement import offered

ANSWER = 40961
TESTS = [f"assert got == {ANSWER}", f"assert got == {ANSWER} and abs(got - {ANSWER}) < 1e-6"]


def passed(peers: Peers, peer: str, attack: Attack) -> bool:
    """Whether a peer counts an attack as correct, by one of the tests. One that brings it down has not passed."""
    tests = [f"def check(candidate):\n    got = candidate(1)\n    {test}\n" for test in TESTS]
    tried = [task(attack.program, "f", test, inputs=[[1]], expected=[ANSWER]) for test in tests]
    try:
        _, results = peers.check(peer, tried, CHECKSUM=str(zlib.crc32(REMARK[23:40].encode())))
    except ConnectionError:
        return False
    return bool({"passed", "pass"}.intersection(results))


def main() -> None:
    chosen = [a for a in attacks() if a.kind in ("forgery", "theft") and not a.name.endswith("[script]")]
    through: dict[str, set[str]] = {}
    with Peers(workers=1) as peers:
        for peer in installed():
            honest = Attack("", "", f"def f(x): return {ANSWER}")
            assert passed(peers, peer, honest), f"{peer} does not take a right answer: its numbers would say nothing"
            through[peer] = set()
            with progress(peer, len(chosen)) as advance:
                for attack in chosen:
                    if passed(peers, peer, attack):
                        through[peer].add(attack.name)
                    advance(1, attack.name)
    ours = {finding.attack.name for finding in run_attacks(chosen) if "passed" in finding.wrong}
    for kind in ("forgery", "theft"):
        names = [attack.name for attack in chosen if attack.kind == kind]
        counts = {peer: sum(name in found for name in names) for peer, found in {**through, "here": ours}.items()}
        print(f"{kind}: {len(names)} programs; passed: {', '.join(f'{peer} {n}' for peer, n in counts.items())}")
        for name in names:
            if who := [peer for peer, found in through.items() if name in found]:
                print(f"    {name}: {', '.join(who)}")
    print(f"here under {offered()}")


if __name__ == "__main__":
    main()
