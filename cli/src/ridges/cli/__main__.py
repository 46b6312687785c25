"""The command line's entry point."""

import sys

from ridges.cli.errors import CliError


def main() -> int:
    """Runs the command; one line on stderr for what went wrong, never a traceback for what a user can mend."""
    from ridges.cli.app import app

    try:
        app()
    except CliError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
