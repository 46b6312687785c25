"""The command line's entry point."""

import io
import signal
import sys
from types import FrameType

from ridges.cli.errors import CliError, Exit
from ridges.cli.terminal_text import printable


def main() -> int:
    """Runs the command; one line on stderr for what went wrong, never a traceback for what a user can mend."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character shows a question mark
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, _interrupt)
    try:
        from ridges.cli.app import app

        app(prog_name="ridges")
    except CliError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return int(error.exit_code)
    except KeyboardInterrupt:
        return int(Exit.INTERRUPTED)
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """A closed terminal and a polite kill end a command as Ctrl-C does: nothing that it started may stay."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
