"""Parsing of a dataset's programs."""

import ast
import warnings


def parse(code: str) -> ast.Module:
    """Syntax tree of a program that somebody else wrote: its style ("\\w" in a plain string) is no concern of the user.

    Raises SyntaxError.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        return ast.parse(code)
