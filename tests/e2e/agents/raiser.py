"""Raises in the middle of its work, and prints ``output.json`` when stdout is flushed after that was written."""

import sys
from pathlib import Path

OUTPUT = Path("/sandbox/output.json")


class ReadsOutput:
    """The runner writes ``output.json`` when the agent is done and then flushes stdout."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, text):
        return self._stream.write(text)

    def flush(self):
        if OUTPUT.exists():
            self._stream.write("\nOBSERVED " + OUTPUT.read_text() + "\n")
        self._stream.flush()


def agent_main(problem):
    Path("repo/half.txt").write_text("half\n")
    sys.stdout = ReadsOutput(sys.stdout)
    raise LookupError("it broke: schön")
