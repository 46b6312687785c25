"""Programs that run inside a sandbox: standard library only, Python >= 3.8, nothing of ours installed there.

The supervisor is PID 1. Its modules reach the sandbox on stdin, so that it needs no file there, works with an engine on
another machine, and `ps` shows a short line. They import only what is cheap: no enum, re, json, tarfile, socket.
"""

import marshal
import subprocess
from functools import cache
from pathlib import Path

_MODULES = (
    *("poller", "forwarder", "processes", "confinement", "tar_reader", "workspace", "base_commit", "untouched"),
    *("repository", "outbox", "live_log", "snapshots", "supervisor"),
)
"""In the order of their imports."""
_RELAY = ("poller", "forwarder", "relay")
_FORK_SERVER = ("prepared", "confining", "ready_pytest", "fork_server")
"""After them, in the program that runs outside of sandboxes and becomes one with each fork."""

_BOOT = (
    "import marshal,os,sys\n"
    "size=int(sys.argv[1])\n"
    "program=b''\n"
    "while len(program)<size:\n"
    " program+=os.read(0,size-len(program)) or sys.exit('no program on stdin')\n"
    "for name,code in marshal.loads(program).items():\n"
    " module=sys.modules[name]=type(sys)(name)\n"
    " exec(code,module.__dict__)\n"
    "module.main()\n"
    "os._exit(0)\n"
)
_COMPILE = (
    "import marshal,sys\n"
    "program=marshal.loads(sys.stdin.buffer.read())\n"
    "code={name:compile(text,name,'exec',optimize=2) for name,text in program.items()}\n"
    "sys.stdout.buffer.write(marshal.dumps(code))\n"
)
COMPILED = "supervisor.compiled"
COMPILE_IN_SANDBOX = """
import marshal
program = marshal.loads(open("supervisor", "rb").read())
code = {name: compile(text, name, "exec", optimize=2) for name, text in program.items()}
open("supervisor.compiled", "wb").write(marshal.dumps(code))
"""
"""Python that makes of ``supervisor`` (``supervisor_program``) what its interpreter loads 8 ms faster: ``COMPILED``."""
_MARSHAL_VERSION = 2
"""Every Python 3 reads it (texts only)."""


@cache
def supervisor_program() -> bytes:
    """The supervisor for any interpreter: the first thing to write to the stdin of ``supervisor_command``."""
    return _program(_MODULES)


@cache
def relay_program() -> bytes:
    """A run's relay, likewise for ``relay_command``."""
    return _program(_RELAY)


def fork_server_program() -> bytes:
    """The fork server for any interpreter, likewise for ``fork_server_command``."""
    return _program((*_MODULES, *_FORK_SERVER))


def _program(modules: tuple[str, ...]) -> bytes:
    here = Path(__file__).parent
    texts = {f"{__name__}.{name}": (here / f"{name}.py").read_text() for name in modules}
    return marshal.dumps(texts, _MARSHAL_VERSION)


def compiled(program: bytes, python: Path) -> bytes:
    """The same, compiled by and for one interpreter: saves 8 ms a start. Raises what ``subprocess.run`` raises."""
    command = [str(python), "-I", "-S", "-E", "-c", _COMPILE]
    return subprocess.run(command, input=program, capture_output=True, timeout=20, check=True).stdout


def supervisor_command(python: str = "python3", program: bytes | None = None) -> tuple[str, ...]:
    """Program and arguments of the sandbox's PID 1, for an interpreter inside the sandbox."""
    return (python, "-I", "-S", "-E", "-B", "-c", _BOOT, str(len(program or supervisor_program())))


def relay_command(socket_path: str, port: int, python: str = "python3") -> tuple[str, ...]:
    """Program and arguments of a relay: from 127.0.0.1:port to the socket."""
    return (python, "-I", "-S", "-E", "-B", "-c", _BOOT, str(len(relay_program())), socket_path, str(port))


def fork_server_command(
    python: str,
    options: tuple[str, ...],
    program: bytes,
    socket: int,
    modules: tuple[str, ...],
    pytest: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """Program and arguments of a fork server.

    Args:
        python: an interpreter.
        options: of it, as for what will be forked.
        program: what will be written to its stdin.
        socket: its end of the control socket.
        modules: to have loaded; with none it prepares no commands.
        pytest: the working directory in sandboxes and the arguments of a pytest that is to be ready, or nothing.
    """
    ready = ("--", *pytest) if pytest else ()
    return (python, *options, "-c", _BOOT, str(len(program)), str(socket), *modules, *ready)


def agent_runner_source() -> bytes:
    """The program that loads ``agent.py`` beside it and calls it; run as ``python3 <file>``."""
    return (Path(__file__).parent / "agent_runner.py").read_bytes()
