"""The smallest agent that solves something: one model call writes main.py (so it is for *create* problems)."""

import json
import os
import subprocess
import urllib.request
from pathlib import Path


def agent_main(problem):
    statement, model = problem["problem_statement"], os.environ.get("RIDGES_MODEL") or "ridges-replay-1"
    rules = "Answer with the complete content of main.py: plain Python, no Markdown.\n\n"
    system = {"role": "system", "content": rules + statement}
    user = {"role": "user", "content": "Write main.py for: " + statement.splitlines()[0]}
    body = {"evaluation_run_id": os.environ["RUN_ID"], "model": model, "temperature": 0.0, "messages": [system, user]}
    url, headers = os.environ["SANDBOX_PROXY_URL"] + "/api/inference", {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)) as reply:
        Path("repo/main.py").write_text(json.load(reply)["content"], encoding="utf-8")
    return subprocess.check_output(["git", "-C", "repo", "diff"], text=True)
