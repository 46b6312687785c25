"""The Ridges dialect to OpenAI's and back."""

import msgspec
import pytest
from unit.gateway.support import completion

from ridges.gateway import contract_dialect as dialect
from ridges.gateway.calls import MalformedReply, upstream_body
from ridges.gateway.contract_dialect import CalledTool, InferenceAnswer, ToolArgument
from ridges.gateway.errors import BodyInvalid
from ridges.gateway.openai_routes import chat_call, check_completion

RUN = "7b0f1a52-0000-4000-8000-000000000001"
BODY = {"evaluation_run_id": RUN, "model": "m", "temperature": 0.5, "messages": [{"role": "user", "content": "x"}]}
PARAMETERS = [
    {"type": "string", "name": "path", "description": "where", "required": True},
    {"type": "array", "name": "lines", "description": "which"},
]
TOOL = {"name": "read", "description": "reads", "parameters": PARAMETERS}
OPENAI_TOOL = {
    "type": "function",
    "function": {
        "name": "read",
        "description": "reads",
        "parameters": {
            "type": "object",
            "properties": {
                "path": {"type": "string", "description": "where"},
                "lines": {"type": "array", "description": "which", "items": {}},
            },
            "required": ["path"],
        },
    },
}


def upstream(**changes):
    received = msgspec.json.encode(BODY | changes)
    call = dialect.chat_call(dialect.read_body(received, dialect.InferenceRequest), received)
    return msgspec.json.decode(upstream_body(call, "served", None, "max_tokens"))


def test_a_plain_request():
    assert upstream(unknown_field=1) == {"model": "served", "temperature": 0.5, "messages": BODY["messages"]}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tool_mode": "auto", "tools": [TOOL]}, {"tools": [OPENAI_TOOL], "tool_choice": "auto"}),
        ({"tool_mode": "required", "tools": [TOOL]}, {"tools": [OPENAI_TOOL], "tool_choice": "required"}),
        ({"tool_mode": "none", "tools": []}, {}),
        ({"tool_mode": "none", "tools": None}, {}),
        ({"tool_mode": "auto"}, {}),
        ({"tool_mode": None}, {}),
    ],
)
def test_tools_become_openai_tools(changes, expected):
    assert upstream(**changes) == upstream() | expected


def called(arguments):
    reply = completion(
        None, tool_calls=[{"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}]
    )
    return dialect.inference_answer(reply.body)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"a": 1, "b": {"c": [null]}}', [ToolArgument("a", 1), ToolArgument("b", {"c": [None]})]),
        ({"a": "x"}, [ToolArgument("a", "x")]),
        ("", []),
        ("{}", []),
    ],
)
def test_tool_calls_come_back_as_named_values(arguments, expected):
    assert called(arguments) == InferenceAnswer("", [CalledTool("f", expected)])


@pytest.mark.parametrize("arguments", ["{", "[1]", '"x"'])
def test_arguments_that_are_no_object_make_the_reply_malformed(arguments):
    with pytest.raises(MalformedReply, match="tool call f"):
        called(arguments)


@pytest.mark.parametrize(
    ("body", "content"),
    [
        ({"choices": [{"message": {"content": "hi"}}]}, "hi"),
        ({"choices": [{"message": {"content": None}}]}, ""),
        ({"choices": [{"message": {}}]}, ""),
        ({"choices": [{"message": {"content": [{"type": "text", "text": "a"}, {"text": "b"}]}}]}, "ab"),
    ],
)
def test_content_is_always_text(body, content):
    assert dialect.inference_answer(msgspec.json.encode(body)) == InferenceAnswer(content, [])


NO_COMPLETIONS = [
    *(b"", b"<html>", b"[]", b"{}", b"\xff"),
    *(b'{"choices": []}', b'{"choices": [{}]}', b'{"choices": [{"message": null}]}'),
    b'{"choices": [{"message": {"content": ""}, "finish_reason": "error", "error": {"code": 502, "message": "sick"}}]}',
]


@pytest.mark.parametrize("body", NO_COMPLETIONS)
@pytest.mark.parametrize("accept", [dialect.inference_answer, check_completion])
def test_what_is_no_completion_is_malformed(accept, body):
    with pytest.raises(MalformedReply):
        accept(body)


@pytest.mark.parametrize("body", [b"x", b"{}", b'{"data": []}', b'{"data": [{"embedding": ["a"]}]}'])
def test_what_is_no_embedding_is_malformed(body):
    with pytest.raises(MalformedReply):
        dialect.embedding_answer(body)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"messages": [{"role": "user", "content": 7}]}, ["body", "messages", 0, "content"]),
        ({"messages": [{"role": "user"}]}, ["body", "messages", 0, "content"]),
        ({"temperature": "warm"}, ["body", "temperature"]),
        ({"evaluation_run_id": "7"}, ["body", "evaluation_run_id"]),
        ({"tool_mode": "maybe"}, ["body", "tool_mode"]),
        ({"tools": [TOOL | {"parameters": [{"type": "date"}]}]}, ["body", "tools", 0, "parameters", 0]),
    ],
)
def test_a_misfit_names_its_place(changes, place):
    with pytest.raises(BodyInvalid) as caught:
        dialect.read_body(msgspec.json.encode(BODY | changes), dialect.InferenceRequest)
    (problem,) = caught.value.problems
    assert problem["loc"][: len(place)] == place
    assert problem["msg"]


def test_openai_fields_pass_untouched_but_for_the_spliced_ones():
    raw = (
        b'{"seed": 1e2, "model": "m", "messages": [ {"role":"user","content":"\\u00e9"} ], "n": 2,'
        b'"max_tokens": 9, "x": {"y" : 1}}'
    )
    call = chat_call(raw)
    assert (call.answers, call.output_tokens, call.streamed) == (2, 9, False)
    body = upstream_body(call, "served", 7, "max_tokens")
    for untouched in (b"1e2", b'[ {"role":"user","content":"\\u00e9"} ]', b'{"y" : 1}'):
        assert untouched in body
    assert msgspec.json.decode(body)["max_tokens"] == 7
    assert msgspec.json.decode(body)["model"] == "served"


def test_stream_options_are_kept_and_usage_added():
    raw = b'{"model":"m","messages":[{}],"stream":true,"stream_options":{"include_usage":false,"other":1}}'
    call = chat_call(raw)
    assert (call.streamed, call.keep_usage) == (True, False)
    options = msgspec.json.decode(upstream_body(call, "m", None, "max_tokens"))["stream_options"]
    assert options == {"include_usage": True, "other": 1}


@pytest.mark.parametrize(
    ("raw", "place"),
    [
        (b"[]", ["body"]),
        (b"{", ["body"]),
        (b"\xff\xfe", ["body"]),
        (b'{"model": "m", "messages": [{"content": "\xff"}]}', ["body"]),
        (b'{"model": "m", "messages": [{}], "user": "\xe9"}', ["body"]),
        (b'{"messages": []}', ["body", "model"]),
        (b'{"model": "m"}', ["body", "messages"]),
        (b'{"model": 7, "messages": []}', ["body", "model"]),
        (b'{"model": "m", "messages": [], "max_tokens": 0}', ["body", "max_tokens"]),
        (b'{"model": "m", "messages": [], "n": 0.5}', ["body", "n"]),
        (b'{"model": "m", "messages": [], "n": 999}', ["body", "n"]),
        (b'{"model": "m", "messages": [], "stream": "yes"}', ["body", "stream"]),
    ],
)
def test_openai_bodies_that_do_not_fit(raw, place):
    with pytest.raises(BodyInvalid) as caught:
        chat_call(raw)
    assert caught.value.problems[0]["loc"] == place
