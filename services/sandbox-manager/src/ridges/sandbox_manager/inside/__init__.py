"""Programs that run inside a sandbox: standard library only, Python >= 3.8, nothing of ours installed there.

The supervisor is PID 1. Its modules reach the sandbox as one text on stdin, so that it needs no file there, works with
an engine on another machine, and `ps` shows a short line.
"""

from functools import cache
from pathlib import Path

_MODULES = ("poller", "forwarder", "processes", "workspace", "repository", "supervisor")
"""In the order of their imports."""

_BOOT = (
    "import os,sys\n"
    "size=int(sys.argv[1])\n"
    "text=b''\n"
    "while len(text)<size:\n"
    " text+=os.read(0,size-len(text)) or sys.exit('no program on stdin')\n"
    "exec(compile(text,'ridges-supervisor','exec'))\n"
)


@cache
def supervisor_program() -> bytes:
    """The supervisor as one Python program: first thing to write to the stdin of ``supervisor_command``."""
    here = Path(__file__).parent
    sources = {f"{__name__}.{name}": (here / f"{name}.py").read_text() for name in _MODULES}
    return (
        "import sys\n"
        f"for name,text in {sources!r}.items():\n"
        " module=sys.modules[name]=type(sys)(name)\n"
        " exec(compile(text,name,'exec'),module.__dict__)\n"
        "module.main()\n"
    ).encode()


def supervisor_command(python: str = "python3") -> tuple[str, ...]:
    """Program and arguments of the sandbox's PID 1, for an interpreter inside the sandbox."""
    return (python, "-I", "-S", "-E", "-B", "-c", _BOOT, str(len(supervisor_program())))


def agent_runner_source() -> bytes:
    """The program that loads ``agent.py`` beside it and calls it; run as ``python3 <file>``."""
    return (Path(__file__).parent / "agent_runner.py").read_bytes()
