"""The one error that a user can cause and fix, and what others say in one line."""


class UserError(ValueError):
    """Wrong input: the message is one line that names the option or file, its value and the fix; of several mistakes
    in one file, a line for each.

    The command line prints only the message and exits with 2; `--debug` shows the traceback.
    """


def first_line(error: BaseException) -> str:
    """What an error of a library says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
