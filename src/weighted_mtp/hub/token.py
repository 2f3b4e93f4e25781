"""The access token, and placeholders that are not one."""

import os
import re
from pathlib import Path

from weighted_mtp.progress import say

_said: set[str] = set()


def read_token(file: Path) -> None:
    """Take HF_TOKEN from a file of lines NAME=VALUE, unless the environment has one.

    A placeholder, such as the quick start's `<your-token>`, is ignored, and named once: the hub would refuse it even
    where it asks for no token.
    """
    if is_placeholder(given := os.environ.get("HF_TOKEN", "")):
        del os.environ["HF_TOKEN"]
        _say_placeholder("the environment", given)
    if "HF_TOKEN" in os.environ or not file.is_file():
        return
    for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        name, _, value = line.removeprefix("export ").partition("=")
        token = value.strip().strip("'\"")
        if name.strip() != "HF_TOKEN" or not token:
            continue
        if is_placeholder(token):
            _say_placeholder(str(file), token)
        else:
            os.environ["HF_TOKEN"] = token


def is_placeholder(token: str) -> bool:
    """Whether this is what documentation writes in place of a token, or cannot be in a header at all."""
    words = r"your|token|x{4}|\.{3}" if len(token) < 30 else r"x{8}"  # a long random token may hold a word by chance
    fits = re.fullmatch(r"[\w.~+/=-]*", token, re.ASCII) is not None
    return not fits or re.search(words, token, re.IGNORECASE) is not None


def _say_placeholder(place: str, token: str) -> None:
    if token not in _said:
        _said.add(token)
        say(f"HF_TOKEN={token} in {place} is a placeholder and is ignored; public downloads need no token")
