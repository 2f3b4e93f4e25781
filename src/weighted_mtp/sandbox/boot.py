"""What an isolated interpreter runs first, and the guest's modules that it is sent."""

import functools
import marshal
from importlib.util import find_spec
from types import CodeType
from typing import Literal

Role = Literal["player", "judge"]

# The guest's modules come over a channel, compiled: inside, the folder of this package cannot be read.
BOOT = """
import json, marshal, os, sys, types
def take(size):
    data = b""
    while len(data) < size:
        chunk = os.read(0, size - len(data))
        if not chunk:
            raise SystemExit
        data += chunk
    return data
os.environ.pop("PWD", None)  # bubblewrap sets it
register, os.register_at_fork = os.register_at_fork, lambda **hooks: None
import random  # without its hook, which seeds it in every fork, as `server` does before
os.register_at_fork = register
order = json.loads(take(int.from_bytes(take(4), "big")))
package = sys.modules["guest"] = types.ModuleType("guest")
package.__path__ = []
for name, code in order["modules"].items():
    module = sys.modules["guest." + name] = types.ModuleType("guest." + name)
    module.__package__ = "guest"
    exec(marshal.loads(bytes.fromhex(code)), module.__dict__)
module.start(order)
"""
_MODULES: dict[Role, tuple[str, ...]] = {
    "player": ("codec", "emptying", "lockdown", "server", "objects", "surroundings", "ending", "imports", "player"),
    "judge": ("codec", "emptying", "lockdown", "server", "objects", "foreign", "recorded", "judge"),
}


def modules(role: Role) -> dict[str, bytes]:
    """The guest's modules by name, for `marshal`, in the order in which they need each other."""
    return {name: _compiled(name) for name in _MODULES[role]}


@functools.cache
def _compiled(name: str) -> bytes:
    """A guest's module for `marshal`, without this machine's path to it."""
    module = f"weighted_mtp.sandbox.guest.{name}"
    spec = find_spec(module)
    assert spec is not None
    code = spec.loader.get_code(module)  # type: ignore[union-attr] # which every loader of source has
    return marshal.dumps(_called(code, f"{name}.py"))


def _called(code: CodeType, file: str) -> CodeType:
    inner = (_called(part, file) if isinstance(part, CodeType) else part for part in code.co_consts)
    return code.replace(co_filename=file, co_consts=tuple(inner))
