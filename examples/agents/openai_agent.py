"""The same agent for the OpenAI dialect (`POST /v1/chat/completions`), as short as it gets: no retries, no clock."""

import json
import os
import subprocess
import urllib.request
from pathlib import Path

REPO = Path("repo").resolve()
MODEL = os.environ.get("RIDGES_MODEL") or "ridges-replay-1"
MAX_TURNS = 20
PROMPT = "You are a software engineer with one repository. Act only by calling tools; call finish when done."


def read_file(path: str) -> str:
    return (REPO / path).read_text(encoding="utf-8", errors="replace")


def write_file(path: str, content: str) -> str:
    (REPO / path).parent.mkdir(parents=True, exist_ok=True)
    (REPO / path).write_text(content, encoding="utf-8")
    return f"wrote {path}"


def replace_text(path: str, old: str, new: str) -> str:
    text = read_file(path)
    if text.count(old) != 1:
        return f"error: `old` occurs {text.count(old)} times in {path}; it must occur exactly once"
    return write_file(path, text.replace(old, new))


def run_command(command: str) -> str:
    done = subprocess.run(
        command, shell=True, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, check=False
    )
    return f"exit code {done.returncode}\n{done.stdout.decode('utf-8', 'replace')}"[-16_000:]


def list_files(path: str) -> str:
    return run_command(f"git ls-files --cached --others --exclude-standard -- '{path}'")


TOOLS = {
    "list_files": (list_files, "List the files below a folder.", ["path"]),
    "read_file": (read_file, "Read a text file.", ["path"]),
    "write_file": (write_file, "Create or overwrite a file.", ["path", "content"]),
    "replace_text": (replace_text, "Replace a piece of a file that occurs exactly once.", ["path", "old", "new"]),
    "run_command": (run_command, "Run a shell command in the repository.", ["command"]),
    "finish": (None, "End the work.", ["summary"]),
}


def schema(name: str, description: str, parameters: list[str]) -> dict:
    properties = {key: {"type": "string"} for key in parameters}
    shape = {"type": "object", "properties": properties, "required": parameters}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": shape}}


def ask(messages: list[dict]) -> dict:
    tools = [schema(name, description, parameters) for name, (_, description, parameters) in TOOLS.items()]
    body = {"model": MODEL, "temperature": 0.0, "messages": messages, "tools": tools, "stream": False}
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
    url = f"{os.environ['OPENAI_BASE_URL'].rstrip('/')}/chat/completions"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers), timeout=300) as reply:
        return json.load(reply)["choices"][0]["message"]


def answer(call: dict) -> dict:
    name = call["function"]["name"]
    print(f"tool: {name}", flush=True)
    try:
        text = TOOLS[name][0](**json.loads(call["function"]["arguments"]))
    except (KeyError, OSError, TypeError, ValueError, subprocess.TimeoutExpired) as error:
        text = f"error: {error!r}"
    return {"role": "tool", "tool_call_id": call["id"], "content": text}


def agent_main(problem: dict) -> str:
    base_commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=REPO, text=True).strip()
    messages = [{"role": "system", "content": PROMPT}, {"role": "user", "content": problem["problem_statement"]}]
    for _ in range(MAX_TURNS):
        message = ask(messages)
        calls = message.get("tool_calls") or []
        if not calls or any(call["function"]["name"] == "finish" for call in calls):
            break
        messages.append({"role": "assistant", "content": message.get("content") or "", "tool_calls": calls})
        messages.extend(answer(call) for call in calls)
    leave_out = [":(exclude,glob)**/__pycache__/**", ":(exclude,glob)**/.pytest_cache/**"]
    subprocess.run(["git", "add", "--all", "--", ".", *leave_out], cwd=REPO, check=True)
    patch = subprocess.check_output(["git", "diff", "--cached", "--binary", base_commit], cwd=REPO)
    return patch.decode("utf-8", "replace")
