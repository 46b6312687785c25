"""``python -m ridges.evaluator.check_folders DIR…``: which problem folders can be used, why others cannot, as JSON."""

import sys
from pathlib import Path

import msgspec

from ridges.evaluator.publisher import BrokenProblem, look_at_folders

_EXIT_USAGE = 2


class Looked(msgspec.Struct, frozen=True, kw_only=True):
    """What is in the folders."""

    problems: tuple[str, ...]
    """Ids."""
    broken: tuple[BrokenProblem, ...]


def main() -> int:
    """Prints one document. Exit code 0 whatever it says. Needs no log and changes nothing."""
    if len(sys.argv) < 2:
        sys.stderr.write("usage: python -m ridges.evaluator.check_folders DIR…\n")
        return _EXIT_USAGE
    problems, broken = look_at_folders([Path(argument) for argument in sys.argv[1:]])
    looked = Looked(problems=tuple(problem.problem_id for problem in problems), broken=broken)
    sys.stdout.buffer.write(msgspec.json.encode(looked) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
