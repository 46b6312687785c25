"""What the command line says when it cannot go on, and the exit codes it ends with."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of ``ridges``."""

    RESOLVED = 0
    NOT_RESOLVED = 1
    USAGE = 2
    OUR_FAULT = 3
    BUDGET_SPENT = 4
    INTERRUPTED = 130


class CliError(Exception):
    """Ends the command: the message says what happened and what to do next."""

    def __init__(self, message: str, exit_code: Exit = Exit.OUR_FAULT) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class UsageError(CliError):
    """The user asked for something that cannot be."""

    def __init__(self, message: str) -> None:
        super().__init__(message, Exit.USAGE)
