"""For ``preexec_fn``: a process that ends with the one that started it, also when that is killed with -9."""

import ctypes
import signal

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Asks Linux for a SIGTERM when the parent's thread ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
