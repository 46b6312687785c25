"""Loads ``/sandbox/agent.py`` and calls its ``agent_main``; writes ``/sandbox/output.json``.

Source: the agent contract: one positional argument, ``sys.modules`` and ``__file__`` set before the agent is executed,
BaseException caught, a ``str`` or ``{"patch": str}`` taken. ``output.json`` is ``{"success": true, "output": patch}``
or ``{"success": false, "error", "traceback", "kind"}`` with kind not_loadable | raised | exited | no_patch. Standard
library only, Python >= 3.8.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import traceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

AGENT = "agent.py"
INPUT = "input.json"
OUTPUT = "output.json"


def load_agent(path: str) -> Any:
    """The agent's module, executed. Raises whatever the agent raises."""
    spec = importlib.util.spec_from_file_location("agent", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    module.__file__ = path
    sys.modules["agent"] = module
    spec.loader.exec_module(module)
    if not callable(getattr(module, "agent_main", None)):
        raise ImportError(f"{path} defines no function agent_main")  # noqa: TRY004  # it reads better in a log
    return module


def failure(kind: str, error: str, trace: str = "") -> dict[str, Any]:
    """What ``output.json`` says when there is no patch."""
    return {"success": False, "error": error, "traceback": trace, "kind": kind}


def raised(kind: str, error: BaseException) -> dict[str, Any]:
    """The failure that an exception of the agent is."""
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    say(trace)
    if isinstance(error, SystemExit):
        return failure("exited", f"the agent called sys.exit({error.code!r})", trace)
    return failure(kind, traceback.format_exception_only(type(error), error)[-1].strip(), trace)


def say(text: str) -> None:
    """Into the log, after what the agent printed, if the agent left that in order."""
    try:
        sys.stdout.flush()
        sys.stderr.write(text)
        sys.stderr.flush()
    except BaseException:  # noqa: S110  # the outcome is in output.json
        pass


def run_agent(directory: str) -> dict[str, Any]:
    """Load the agent, call it with the problem, judge what it returned."""
    with open(os.path.join(directory, INPUT), encoding="utf-8") as file:
        problem = json.load(file)
    try:
        agent_main = load_agent(os.path.join(directory, AGENT)).agent_main
    except BaseException as error:
        return raised("not_loadable", error)
    try:
        answer = agent_main(problem)
    except BaseException as error:
        return raised("raised", error)
    patch = answer.get("patch") if isinstance(answer, dict) else answer
    if not isinstance(patch, str):
        got = "a dict without the text 'patch'" if isinstance(answer, dict) else type(answer).__name__
        return failure("no_patch", f"agent_main must return a str (a unified diff), it returned {got}")
    return {"success": True, "output": patch}


def write_output(directory: str, outcome: dict[str, Any]) -> None:
    """Put ``output.json`` in the place of whatever the agent left under that name."""
    path = os.path.join(directory, OUTPUT)
    text = json.dumps(outcome)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    with open(path, "x", encoding="utf-8") as file:
        file.write(text)


def main() -> int:
    """Exit code: 0 = a patch was returned, 1 = not."""
    directory = os.path.dirname(os.path.abspath(__file__))
    os.chdir(directory)
    outcome = run_agent(directory)
    write_output(directory, outcome)
    say("")
    return 0 if outcome["success"] else 1


if __name__ == "__main__":
    os._exit(main())  # threads of the agent do not keep a finished run open
