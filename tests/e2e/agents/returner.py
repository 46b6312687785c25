"""Returns a patch, and prints ``output.json`` when stdout is flushed after that was written."""

import os
import sys
from pathlib import Path

PATCH = "diff --git a/NOTES.txt b/NOTES.txt\nnew file mode 100644\n--- /dev/null\n+++ b/NOTES.txt\n@@ -0,0 +1 @@\n+noted\n"


class ReadsOutput:
    """The runner writes ``output.json`` when the agent is done and then flushes stdout."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, text):
        return self._stream.write(text)

    def flush(self):
        if os.path.exists("/sandbox/output.json"):
            self._stream.write("\nOBSERVED " + Path("/sandbox/output.json").read_text() + "\n")
        self._stream.flush()


def agent_main(problem):
    Path("repo/of_no_account.txt").write_text("the returned patch counts, not the work tree\n")
    sys.stdout = ReadsOutput(sys.stdout)
    return PATCH
