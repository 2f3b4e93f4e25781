"""The one error that a user can cause and mend."""


class UserError(ValueError):
    """Wrong input: the message is one line that names the option or file, its value and the fix.

    The command line prints the message alone and exits with 2; `--debug` shows the traceback.
    """
