"""A real LLM agent in one file of plain Python: reads the repository, edits with tools, runs tests, returns the diff.

Speaks the Ridges dialect (`POST /api/inference`). Run it with `ridges run -a examples/agents/llm_agent.py -p PROBLEM`.
"""

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

REPO = Path("repo").resolve()
MODEL = os.environ.get("RIDGES_MODEL") or "ridges-replay-1"
GATEWAY = os.environ.get("SANDBOX_PROXY_URL", "http://127.0.0.1:8080").rstrip("/")
RUN_ID = os.environ.get("EVALUATION_RUN_ID") or os.environ.get("RUN_ID", "")
STOP_AT = time.monotonic() + int(os.environ.get("AGENT_TIMEOUT") or 2400) * 0.9

MAX_TURNS = 20
MAX_TRIES = 6
MAX_RESULT_CHARS = 16_000
COMMAND_TIMEOUT_S = 120
LEAVE_OUT = [":(exclude,glob)**/__pycache__/**", ":(exclude,glob)**/.pytest_cache/**"]

SYSTEM_PROMPT = """\
You are a software engineer who works alone on one repository. You act only by calling tools.
First look at the files that matter and run the tests that exist. Find the cause before you edit, and look for every
place that has the same cause. Keep changes small, keep public names, and do not edit tests to make them pass.
Hidden tests judge the result: follow the statement and the README to the letter. Run your own checks with run_command.
Call finish when the work is done."""


def _tool(name: str, description: str, **parameters: str) -> dict:
    return {
        "name": name,
        "description": description,
        "parameters": [
            {"type": "string", "name": key, "description": text, "required": True} for key, text in parameters.items()
        ],
    }


TOOLS = [
    _tool("list_files", "List all files below a folder of the repository.", path="folder, '.' for all"),
    _tool("read_file", "Read a text file.", path="file, relative to the repository"),
    _tool("write_file", "Create or overwrite a file.", path="file, relative to the repository", content="whole text"),
    _tool(
        "replace_text",
        "Replace a piece of a file that occurs exactly once.",
        path="file, relative to the repository",
        old="exact text to replace, with enough lines around it to be unique",
        new="text to put there",
    ),
    _tool("run_command", "Run a bash command in the repository; gives its exit code and output.", command="command"),
    _tool("finish", "End the work.", summary="what was wrong and what was changed, in a few sentences"),
]


class BudgetSpent(Exception):
    """The gateway refuses further calls of this run: its cost limit is reached."""


# --- tools -----------------------------------------------------------------------------------------------------------


def _inside(path: str) -> Path:
    target = (REPO / path).resolve()
    if target != REPO and REPO not in target.parents:
        raise ValueError(f"{path} is outside the repository")
    return target


def list_files(path: str = ".") -> str:
    files = (file for file in sorted(_inside(path).rglob("*")) if file.is_file())
    names = [str(file.relative_to(REPO)) for file in files]
    return "\n".join(n for n in names if not n.startswith(".git/") and "__pycache__" not in n) or "(no files)"


def read_file(path: str) -> str:
    return _inside(path).read_text(encoding="utf-8", errors="replace")


def write_file(path: str, content: str) -> str:
    target = _inside(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(content, encoding="utf-8")
    return f"wrote {path} ({len(content.splitlines())} lines)"


def replace_text(path: str, old: str, new: str) -> str:
    text = read_file(path)
    if text.count(old) != 1:
        raise ValueError(f"`old` occurs {text.count(old)} times in {path}; it must occur exactly once")
    _inside(path).write_text(text.replace(old, new), encoding="utf-8")
    return f"edited {path}"


def run_command(command: str) -> str:
    process = subprocess.Popen(
        ["bash", "-c", command],
        cwd=REPO,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=min(COMMAND_TIMEOUT_S, max(1.0, STOP_AT - time.monotonic())))
        ending = f"exit code {process.returncode}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        ending = "killed: it took too long"
    return f"{ending}\n{output.decode('utf-8', 'replace')}"


ACTIONS = {tool.__name__: tool for tool in (list_files, read_file, write_file, replace_text, run_command)}


def use_tool(name: str, arguments: dict) -> str:
    """Return what the tool says; a mistake of the model comes back as text, so that it can mend it."""
    try:
        result = ACTIONS[name](**arguments)
    except KeyError:
        return f"error: there is no tool named {name}"
    except (OSError, TypeError, ValueError) as error:
        return f"error: {error}"
    if len(result) > MAX_RESULT_CHARS:
        half = MAX_RESULT_CHARS // 2
        result = f"{result[:half]}\n... {len(result) - 2 * half} characters left out ...\n{result[-half:]}"
    return result


# --- the model -------------------------------------------------------------------------------------------------------


def _pause_s(error: Exception, attempt: int) -> float:
    headers = getattr(error, "headers", None) or {}
    try:
        return min(max(float(headers.get("Retry-After", "")), 0.0), 60.0)
    except ValueError:
        return min(2.0**attempt, 30.0)


def ask(messages: list[dict]) -> dict:
    """Return the model's `{"content", "tool_calls"}`; raises BudgetSpent, or RuntimeError if retrying does not help."""
    body = {
        "evaluation_run_id": RUN_ID,
        "model": MODEL,
        "temperature": 0.0,
        "messages": messages,
        "tool_mode": "auto",
        "tools": TOOLS,
    }
    trouble: Exception | str = "no reply"
    for attempt in range(MAX_TRIES):
        request = urllib.request.Request(
            f"{GATEWAY}/api/inference", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=300) as response:
                reply = json.load(response)
            if reply["content"] or reply["tool_calls"]:
                return reply
            trouble, pause_s = "the model said nothing", min(2.0**attempt, 30.0)
        except urllib.error.HTTPError as error:
            text = error.read().decode("utf-8", "replace")
            trouble = f"HTTP {error.code}: {text[:500]}"
            if error.code in (402, 403, 429) and ("cost" in text.lower() or "budget" in text.lower()):
                raise BudgetSpent(trouble) from error
            if error.code not in (429, 500, 502, 503, 504):
                break
            pause_s = _pause_s(error, attempt)
        except (OSError, ValueError) as error:
            trouble, pause_s = error, min(2.0**attempt, 30.0)
        if time.monotonic() + pause_s > STOP_AT:
            break
        print(f"model call failed ({trouble}); next try in {pause_s:.0f} s", flush=True)
        time.sleep(pause_s)
    raise RuntimeError(f"the model cannot be reached: {trouble}")


# --- the loop --------------------------------------------------------------------------------------------------------


def _shorten(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def work(messages: list[dict]) -> None:
    for turn in range(MAX_TURNS):
        if time.monotonic() > STOP_AT:
            print("time is nearly up: returning what there is", flush=True)
            return
        reply = ask(messages)
        calls = [
            (call["name"], {item["name"]: item["value"] for item in call["arguments"]}) for call in reply["tool_calls"]
        ]
        echo = [{"name": name, "arguments": arguments} for name, arguments in calls]
        messages.append({"role": "assistant", "content": f"{reply['content']}\n{json.dumps(echo)}".strip()})
        results = []
        for name, arguments in calls:
            shown = " ".join(f"{key}={_shorten(value)}" for key, value in arguments.items())
            print(f"turn {turn + 1}: {name} {shown}", flush=True)
            if name == "finish":
                print(arguments.get("summary", ""), flush=True)
                return
            results.append(f"Result of {name}:\n{use_tool(name, arguments)}")
        messages.append({"role": "user", "content": "\n\n".join(results) or "Call a tool, or call finish."})
    print("turn limit reached: returning what there is", flush=True)


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=REPO, capture_output=True, check=True)
    return done.stdout.decode("utf-8", "replace")


def agent_main(problem: dict) -> str:
    print(f"llm_agent: model {MODEL}, at most {MAX_TURNS} turns", flush=True)
    base_commit = git("rev-parse", "HEAD").strip()
    statement = problem["problem_statement"]
    messages = [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": f"Solve this problem in the repository.\n\n{statement}"},
    ]
    try:
        work(messages)
    except (BudgetSpent, RuntimeError) as error:
        print(f"stopped early: {error}", flush=True)
    git("add", "--all", "--", ".", *LEAVE_OUT)
    return git("diff", "--cached", "--binary", "--no-color", "--no-ext-diff", base_commit)
