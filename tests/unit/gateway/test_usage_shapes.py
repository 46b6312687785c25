"""A streamed call costs what the buffered one costs, to the token, for every shape in which usage is reported."""

import msgspec
import pytest
from unit.gateway.support import ScriptedProvider, World, chat, chunk, events_of, provider

from ridges.contracts import events as ev
from ridges.contracts.usage import TokenUsage
from ridges.gateway.ports import ProviderReply

DONE = b"data: [DONE]\n\n"
TEXT = "The answer is forty-two, and here is why: because it was asked for."
REASONING = "Let me think about the question."
PLAIN = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
CACHED = PLAIN | {"prompt_tokens_details": {"cached_tokens": 60}}
REASONED = PLAIN | {"completion_tokens_details": {"reasoning_tokens": 15}}
BESIDE = PLAIN | {"total_tokens": 135, "completion_tokens_details": {"reasoning_tokens": 15}}
ALL = CACHED | REASONED
OTHER_NAMES = {"input_tokens": 100, "output_tokens": 20}
FLOATS = {"prompt_tokens": 100.0, "completion_tokens": 20.0}
ONLY_THE_TOTAL = {"prompt_tokens": 100, "total_tokens": 120}

USAGES = [
    ("plain", PLAIN, TokenUsage(input=100, output=20)),
    ("cached", CACHED, TokenUsage(input=40, cached_input=60, output=20)),
    ("reasoning", REASONED, TokenUsage(input=100, output=5, reasoning=15)),
    ("reasoning beside", BESIDE, TokenUsage(input=100, output=20, reasoning=15)),
    ("cached and reasoning", ALL, TokenUsage(input=40, cached_input=60, output=5, reasoning=15)),
    ("other names", OTHER_NAMES, TokenUsage(input=100, output=20)),
    ("floats", FLOATS, TokenUsage(input=100, output=20)),
    ("prompt and total", ONLY_THE_TOTAL, TokenUsage(input=100, output=20)),
]
WORDS = [chunk(word) for word in ("The answer is forty-two, ", "and here is why: ", "because it was asked for.")]
END = {"index": 0, "delta": {}, "finish_reason": "stop"}


def inside(body):
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


STREAMS = {
    "empty choices": lambda usage: [*WORDS, chunk(finish="stop"), chunk(usage=usage, choices=False), DONE],
    "with choices": lambda usage: [*WORDS, chunk(finish="stop", usage=usage), DONE],
    "before the finish": lambda usage: [*WORDS, chunk(usage=usage), chunk(finish="stop"), DONE],
    "twice": lambda usage: [*WORDS, chunk(finish="stop", usage=usage), chunk(usage=usage, choices=False), DONE],
    "null until the end": lambda usage: [
        *(chunk(word, usage=None) for word in ("The ", "answer")),
        chunk(finish="stop", usage=None),
        chunk(usage=usage, choices=False),
        DONE,
    ],
    "growing": lambda usage: [
        chunk("The", usage={"prompt_tokens": 100, "completion_tokens": 1}),
        chunk(" answer", usage={"prompt_tokens": 100, "completion_tokens": 2}),
        chunk(finish="stop", usage=usage),
        DONE,
    ],
    "an empty one at the end": lambda usage: [
        *WORDS,
        chunk(finish="stop", usage=usage),
        chunk(usage={"prompt_tokens": 0, "completion_tokens": 0}, choices=False),
        DONE,
    ],
    "in a choice": lambda usage: [*WORDS, inside({"choices": [END | {"usage": usage}]}), DONE],
    "in x_groq": lambda usage: [*WORDS, inside({"choices": [END], "x_groq": {"usage": usage}}), DONE],
    "without done": lambda usage: [*WORDS, chunk(finish="stop"), chunk(usage=usage, choices=False)],
    "carriage returns": lambda usage: [
        b"".join([*WORDS, chunk(finish="stop"), chunk(usage=usage, choices=False), DONE]).replace(b"\n", b"\r\n")
    ],
}


def buffered(usage, **message):
    body = {"choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT, **message}}]}
    return ProviderReply(status=200, body=msgspec.json.encode(body | ({"usage": usage} if usage else {})))


async def both(stream, reply, *, keep_usage=False):
    """(InferenceMade of the streamed call, of the buffered call)."""
    script = ScriptedProvider(lambda body: stream if body.get("stream_options") else reply)
    async with World((provider(), script)).running() as world:
        run_id = await world.run()
        async for _ in events_of(world.pipeline, run_id, chat(streamed=True, keep_usage=keep_usage)):
            pass
        await world.pipeline.complete(run_id, chat(), lambda body: body)
        return await world.events(run_id, ev.InferenceMade)


@pytest.mark.parametrize("asked", [False, True], ids=["unasked", "asked"])
@pytest.mark.parametrize("shape", STREAMS)
@pytest.mark.parametrize(("usage", "expected"), [row[1:] for row in USAGES], ids=[row[0] for row in USAGES])
async def test_streamed_equals_buffered(usage, expected, shape, asked):
    streamed, whole = await both(STREAMS[shape](usage), buffered(usage), keep_usage=asked)
    assert streamed.usage == whole.usage == expected
    assert streamed.cost_nano_usd == whole.cost_nano_usd > 0
    assert streamed.attempts[0].usage_source == whole.attempts[0].usage_source == "provider"


TOOL = {"id": "c", "type": "function", "function": {"name": "search", "arguments": '{"query": "forty-two"}'}}


def delta(index=0, **fields):
    return b"data: " + msgspec.json.encode({"choices": [{"index": index, "delta": fields}]}) + b"\n\n"


def call_delta(**function):
    return delta(tool_calls=[{"index": 0, "function": function}])


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (WORDS, {}),
        ([delta(reasoning_content=REASONING[:7]), delta(reasoning_content=REASONING[7:]), *WORDS],
         {"reasoning_content": REASONING}),
        ([delta(reasoning=REASONING), *WORDS], {"reasoning": REASONING}),
        ([*WORDS, call_delta(name="search"), call_delta(arguments='{"query": '), call_delta(arguments='"forty-two"}')],
         {"tool_calls": [TOOL]}),
    ],
    ids=["text", "reasoning_content", "reasoning", "tool calls"],
)  # fmt: skip
async def test_absent_usage_is_the_same_estimate_streamed_and_buffered(stream, message):
    streamed, whole = await both([*stream, chunk(finish="stop"), DONE], buffered(None, **message))
    assert streamed.usage == whole.usage
    assert streamed.cost_nano_usd == whole.cost_nano_usd > 0
    assert streamed.usage.output > 10
    assert streamed.attempts[0].usage_source == whole.attempts[0].usage_source == "estimated"
