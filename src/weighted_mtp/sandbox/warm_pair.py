"""The two interpreters that a job needs, kept warm."""

from weighted_mtp.sandbox.boot import Role
from weighted_mtp.sandbox.confinement import Isolation
from weighted_mtp.sandbox.interpreter import ConfinedInterpreter, Confinement
from weighted_mtp.sandbox.job import Limits
from weighted_mtp.sandbox.packages import Packages


class WarmPair:
    """A warm player and a warm judge, started when they are first used; closed by the owner.

    The player's programs may import `packages`; the judge has only the standard library.

    Both are replaced for a job whose limits are part of the confinement, and whoever closes the pair gets a new one.
    """

    def __init__(self, isolation: Isolation, packages: Packages) -> None:
        self._isolation = isolation
        self._packages = packages
        self._interpreters: dict[Role, ConfinedInterpreter] = {}
        self._confinement: Confinement | None = None

    def confine(self, limits: Limits) -> None:
        """Be fit for a job with these limits."""
        confinement = Confinement(self._isolation, limits.memory_mb, self._packages)
        if confinement != self._confinement:
            self.close()
            self._confinement = confinement

    def __getitem__(self, role: Role) -> ConfinedInterpreter:
        assert self._confinement is not None
        if role not in self._interpreters:
            confined = self._confinement if role == "player" else self._confinement._replace(packages=Packages())
            self._interpreters[role] = ConfinedInterpreter(role, confined)
        return self._interpreters[role]

    def clear(self) -> None:
        """Remove what the last job left in the folders."""
        for interpreter in self._interpreters.values():
            interpreter.clear()

    def kill(self) -> None:
        """End what runs, from another thread."""
        for interpreter in list(self._interpreters.values()):
            interpreter.kill()

    def close(self) -> None:
        """Kill both interpreters and remove their folders."""
        for role in list(self._interpreters):
            self._interpreters.pop(role).close()
