"""What an agent's sandbox amounts to: one row per way to end."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.sandbox_manager.samples import left

from ridges.contracts.faults import Cause
from ridges.sandbox_manager.outcomes import MAX_DETAIL_CHARS, MAX_PATCH_BYTES, outcome_of, plain

DIFF = b"diff --git a/x b/x\n"


def returned(patch: object) -> bytes:
    return json.dumps({"success": True, "output": patch}).encode()


def not_returned(kind: str, error: str = "E: why") -> bytes:
    return json.dumps({"success": False, "error": error, "traceback": "Traceback …", "kind": kind}).encode()


ROWS = {
    "a patch": (left(returned("diff x")), b"diff x", None),
    "a patch, although a child ran out of memory": (left(returned("diff x"), out_of_memory=True), b"diff x", None),
    "a patch, although threads went on": (left(returned("diff x"), timed_out=True, exit_code=None), b"diff x", None),
    "an empty patch": (left(returned(" \n"), difference=DIFF), None, Cause.PATCH_EMPTY),
    "half a character": (left(returned("diff \ud800")), None, Cause.PATCH_INVALID),
    "a huge patch": (left(returned("x" * (MAX_PATCH_BYTES + 1))), None, Cause.PATCH_INVALID),
    "no patch": (left(not_returned("no_patch"), difference=DIFF), None, Cause.AGENT_RETURNED_NO_PATCH),
    "raised": (left(not_returned("raised"), exit_code=1), None, Cause.AGENT_RAISED),
    "raised after edits": (left(not_returned("raised"), difference=DIFF, exit_code=1), DIFF, Cause.AGENT_RAISED),
    "sys.exit after edits": (left(not_returned("exited"), difference=DIFF), DIFF, Cause.AGENT_EXITED),
    "not loadable": (left(not_returned("not_loadable"), difference=DIFF), None, Cause.AGENT_NOT_LOADABLE),
    "timed out": (left(timed_out=True, exit_code=None), None, Cause.AGENT_TIMED_OUT),
    "timed out after edits": (left(timed_out=True, difference=DIFF, exit_code=None), DIFF, Cause.AGENT_TIMED_OUT),
    "out of memory": (left(out_of_memory=True, exit_code=-9), None, Cause.AGENT_OUT_OF_MEMORY),
    "out of memory after edits": (left(out_of_memory=True, difference=DIFF), DIFF, Cause.AGENT_OUT_OF_MEMORY),
    "os._exit": (left(exit_code=3), None, Cause.AGENT_EXITED),
    "os._exit after edits": (left(exit_code=3, difference=DIFF), DIFF, Cause.AGENT_EXITED),
    "killed": (left(exit_code=-11), None, Cause.AGENT_EXITED),
    "a link": (left(problem="not_a_regular_file", difference=DIFF), None, Cause.AGENT_OUTPUT_UNSAFE),
    "a huge output": (left(problem="too_large", difference=DIFF), None, Cause.AGENT_OUTPUT_UNSAFE),
    "garbage": (left(b"\xff{", difference=DIFF), None, Cause.AGENT_OUTPUT_UNSAFE),
    "nothing, for the disk was full": (left(b"", difference=DIFF), DIFF, Cause.AGENT_EXITED),
    "a list": (left(b"[]"), None, Cause.AGENT_OUTPUT_UNSAFE),
    "a bomb of brackets": (left(b"[" * 200_000), None, Cause.AGENT_OUTPUT_UNSAFE),
    "a bomb of digits": (left(b'{"success": ' + b"9" * 100_000 + b"}"), None, Cause.AGENT_OUTPUT_UNSAFE),
    "a number for a patch": (left(returned(3)), None, Cause.AGENT_OUTPUT_UNSAFE),
    "an unknown kind": (left(not_returned("wonderful")), None, Cause.AGENT_OUTPUT_UNSAFE),
    "half written when the time was over": (
        left(b'{"succ', timed_out=True, difference=DIFF),
        DIFF,
        Cause.AGENT_TIMED_OUT,
    ),
    "no difference to be had": (left(timed_out=True, difference=None), None, Cause.AGENT_TIMED_OUT),
    "a difference too large": (left(exit_code=1, difference=b"x" * (MAX_PATCH_BYTES + 1)), None, Cause.AGENT_EXITED),
}


@pytest.mark.parametrize("name", ROWS)
def test_every_end_has_its_patch_and_its_cause(name):
    exit_, patch, cause = ROWS[name]
    outcome = outcome_of(exit_, 7)
    assert (outcome.patch, outcome.cause) == (patch, cause)
    assert outcome.partial == (patch is not None and cause is not None)
    assert outcome.detail or cause is None


def test_the_detail_says_what_happened():
    assert "E: why\nTraceback" in outcome_of(left(not_returned("raised")), 7).detail
    assert "exit code 3" in outcome_of(left(exit_code=3), 7).detail
    assert "signal 11" in outcome_of(left(exit_code=-11), 7).detail
    assert "within its 7 s" in outcome_of(left(timed_out=True, wall_s=7.9), 7).detail, "the limit, not when it was dead"
    slow = left(timed_out=True, difference=None, difference_problem="git took too long")
    assert "git took too long" in outcome_of(slow, 7).detail
    large = left(exit_code=1, difference=b"x" * (MAX_PATCH_BYTES + 1))
    assert "no partial patch: the difference has 8388609 bytes" in outcome_of(large, 7).detail


JSON = st.recursive(st.none() | st.booleans() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x))


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_output_of_an_agent_breaks_the_manager(content):
    outcome = outcome_of(left(content), 7)
    assert outcome.patch is not None or outcome.cause is not None
    (outcome.detail or "").encode()


@given(st.text(alphabet=st.characters(), max_size=5_000))
def test_a_strangers_words_become_plain(text):
    told = plain(text)
    told.encode()
    assert len(told) <= MAX_DETAIL_CHARS + 60
    assert all(char in "\n\t" or char.isprintable() for char in told)
