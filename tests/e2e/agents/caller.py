"""Asks the gateway everything that an agent may ask, in every dialect, and prints the answers as one line of JSON."""

import json
import os
import urllib.error
import urllib.request

RUN_ID = os.environ["EVALUATION_RUN_ID"]
PROXY = os.environ["SANDBOX_PROXY_URL"]
OPENAI = os.environ["OPENAI_BASE_URL"]
MODEL = "ridges-replay-1"
SAY_HELLO = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "contract test: say hello"}]
USE_A_TOOL = [{"role": "user", "content": "contract test: use the tool"}]
TOOL = {
    "name": "look",
    "description": "Look at a file.",
    "parameters": [
        {"type": "string", "name": "path", "description": "which", "required": True},
        {"type": "integer", "name": "line", "description": "from where"},
    ],
}


def ask(url, body=None, headers=None):
    """(status, answer) of one call."""
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, content, {"Content-Type": "application/json"} | (headers or {}))
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return [reply.status, json.load(reply)]
    except urllib.error.HTTPError as error:
        return [error.code, json.load(error)]


def inference(**changes):
    body = {"evaluation_run_id": RUN_ID, "model": MODEL, "temperature": 0.0, "messages": SAY_HELLO} | changes
    return {name: value for name, value in body.items() if value is not None}


def older(**changes):
    return inference(evaluation_run_id=None, run_id=os.environ["RUN_ID"], **changes)


def chat(base_url, key):
    body = {"model": MODEL, "messages": SAY_HELLO}
    return ask(f"{base_url}/chat/completions", body, {"Authorization": f"Bearer {key}"})


def streamed_chat():
    body = {"model": MODEL, "messages": SAY_HELLO, "stream": True}
    request = urllib.request.Request(
        f"{OPENAI}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        lines = [line.decode().removeprefix("data: ").strip() for line in reply if line.startswith(b"data: ")]
    pieces = [json.loads(line) for line in lines[:-1]]
    text = "".join(piece["choices"][0]["delta"].get("content") or "" for piece in pieces if piece["choices"])
    return {"text": text, "last_line": lines[-1]}


def agent_main(problem):
    embedding = {"evaluation_run_id": RUN_ID, "model": "ridges-replay-embed-1", "input": "some text"}
    usage_path = f"/api/usage?evaluation_run_id={RUN_ID}"
    somebody_else = "00000000-0000-4000-8000-000000000000"
    answers = {
        "usage_before": ask(PROXY + usage_path),
        "inference": ask(f"{PROXY}/api/inference", inference()),
        "inference_alias": ask(f"{PROXY}/agents/inference", inference()),
        "older": ask(f"{PROXY}/api/inference", older()),
        "older_alias": ask(f"{os.environ['AI_PROXY_URL']}/agents/inference", older()),
        "unknown_fields": ask(f"{PROXY}/api/inference", inference(embedding_model="x", agent_id=3)),
        "empty_tools": ask(f"{PROXY}/api/inference", inference(tool_mode="none", tools=[])),
        "tool_auto": ask(f"{PROXY}/api/inference", inference(messages=USE_A_TOOL, tool_mode="auto", tools=[TOOL])),
        "tool_required": ask(
            f"{PROXY}/api/inference", inference(messages=USE_A_TOOL, tool_mode="required", tools=[TOOL])
        ),
        "embedding": ask(f"{PROXY}/api/embedding", embedding),
        "embedding_alias": ask(
            f"{os.environ['AI_EMBEDDING_PROXY_URL']}/agents/embedding",
            {"run_id": RUN_ID, "model": "ridges-replay-embed-1", "input": "some text"},
        ),
        "openai": chat(OPENAI, os.environ["OPENAI_API_KEY"]),
        "openrouter": chat(os.environ["OPENROUTER_BASE_URL"], os.environ["OPENROUTER_API_KEY"]),
        "openai_by_proxy_url": chat(f"{PROXY}/v1", "nonsense"),
        "openai_streamed": streamed_chat(),
        "openai_models": ask(f"{OPENAI}/models"),
        "openai_embeddings": ask(f"{OPENAI}/embeddings", {"model": "ridges-replay-embed-1", "input": ["a", "b"]}),
        "inference_models": ask(f"{PROXY}/api/inference-models"),
        "embedding_models": ask(f"{PROXY}/api/embedding-models"),
        "none_with_tools": ask(f"{PROXY}/api/inference", inference(tools=[TOOL])),
        "required_without_tools": ask(f"{PROXY}/api/inference", inference(tool_mode="required")),
        "no_messages": ask(f"{PROXY}/api/inference", inference(messages=None)),
        "other_run": ask(f"{PROXY}/api/inference", inference(evaluation_run_id=somebody_else)),
        "other_run_usage": ask(f"{PROXY}/api/usage?evaluation_run_id={somebody_else}"),
        "unknown_model": ask(f"{PROXY}/api/inference", inference(model="gpt-nothing")),
        "unknown_embedding_model": ask(f"{PROXY}/api/embedding", embedding | {"model": "gpt-nothing"}),
        "no_such_path": ask(f"{PROXY}/metrics"),
        "large_prompt": ask(
            f"{PROXY}/api/inference",
            inference(messages=[{"role": "user", "content": "contract test: say hello " + "x" * 1_200_000}]),
        ),
        "usage_after": ask(PROXY + usage_path),
    }
    answers["embedding"][1]["embedding"] = len(answers["embedding"][1]["embedding"])
    answers["embedding_alias"][1]["embedding"] = len(answers["embedding_alias"][1]["embedding"])
    print("OBSERVED " + json.dumps(answers), flush=True)
    return ""
