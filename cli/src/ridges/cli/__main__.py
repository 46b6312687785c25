"""The command line's entry point."""

import io
import sys

from ridges.cli.errors import CliError


def main() -> int:
    """Runs the command; one line on stderr for what went wrong, never a traceback for what a user can mend."""
    from ridges.cli.app import app

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character shows a question mark
    try:
        app()
    except CliError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
