import asyncio

import pytest

from ridges.ledger import examiner as examiner_module
from ridges.ledger.agent_source import agent_problem
from ridges.ledger.examiner import CANNOT_PARSE, AgentExaminer

GOOD = {
    "def": b"def agent_main(input): return ''",
    "async def (the runner says what it thinks of it)": b"async def agent_main(input): return ''",
    "class": b"class agent_main: pass",
    "assignment": b"agent_main = print",
    "annotated assignment": b"agent_main: object = print",
    "unpacking": b"x, (agent_main, *y) = 1, (2, 3)",
    "walrus": b"(agent_main := print)",
    "import": b"import solver as agent_main",
    "from import": b"from solver import agent_main",
    "star import may define it": b"from solver import *",
    "inside try": b"try:\n    from a import agent_main\nexcept ImportError:\n    def agent_main(i): ...",
    "inside if/else": b"if 0: pass\nelse:\n    def agent_main(i): ...",
    "inside match": b"match 1:\n    case _:\n        agent_main = print",
    "with a byte order mark": b"\xef\xbb\xbfdef agent_main(i): ...",
    "CRLF": b"def agent_main(i):\r\n    return ''\r\n",
}
BAD = {
    "empty": (b"", "no top-level agent_main"),
    "only nested": (b"def f():\n    def agent_main(i): ...", "no top-level agent_main"),
    "only a method": (b"class A:\n    def agent_main(i): ...", "no top-level agent_main"),
    "declared without a value": (b"agent_main: object", "no top-level agent_main"),
    "only mentioned": (b"agent_main()", "no top-level agent_main"),
    "syntax error": (b"def agent_main(:\n", "line 1"),
    "Latin-1": ("# für alle".encode("latin-1"), "not UTF-8 (byte 3)"),
    "null byte": (b"def agent_main(i): ...\0", "null bytes"),
    "a binary": (b"\x7fELF\x02\x01", "not"),
}


@pytest.mark.parametrize("content", GOOD.values(), ids=GOOD)
def test_an_agent_binds_agent_main_at_module_level(content):
    assert agent_problem(content) is None


@pytest.mark.parametrize(("content", "told"), BAD.values(), ids=BAD)
def test_what_is_no_agent_is_told_why(content, told):
    assert told in agent_problem(content)


@pytest.mark.parametrize(("content", "told"), BAD.values(), ids=BAD)
async def test_the_child_process_says_the_same(content, told):
    assert told in await AgentExaminer()(content)


async def test_the_child_process_accepts_an_agent():
    assert await AgentExaminer()(b"def agent_main(input): return ''") is None


async def test_a_file_is_examined_once_and_the_newest_are_remembered(monkeypatch):
    started = []

    async def start(*command, **options):
        started.append(command)
        return await real(*command, **options)

    real = asyncio.create_subprocess_exec
    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    monkeypatch.setattr(examiner_module, "REMEMBERED", 2)
    examiner = AgentExaminer()
    good, bad = b"agent_main = 1", b"agent_main: object"
    for _ in range(3):
        assert await examiner(good) is None
        assert "no top-level agent_main" in await examiner(bad)
    assert len(started) == 2
    assert await examiner(b"agent_main = 2") is None
    assert await examiner(good) is None
    assert len(started) == 4


@pytest.mark.parametrize(
    "content",
    [
        b"(" * 150_000 + b"agent_main=1",
        b"-" * 1_000_000 + b"1",
        b"x=" + b"[" * 90 + b"]" * 90 + b"\n" + b"a." * 400_000,
    ],
    ids=["parentheses", "unary", "attributes"],
)
async def test_source_that_breaks_parsers_is_refused_and_breaks_nothing(content):
    told = await AgentExaminer()(content)
    assert told == CANNOT_PARSE or "parse" in told
