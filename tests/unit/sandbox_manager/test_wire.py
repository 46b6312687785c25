"""What the adapter reads from a sandbox is hostile: caps, nonce, and nothing but SandboxFailed."""

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sandboxes import sandbox_spec

from ridges.contracts.limits import SandboxLimits
from ridges.sandbox_manager.errors import SandboxFailed
from ridges.sandbox_manager.wire import Measured, ReplyReader, launch

SPEC = sandbox_spec(
    "true",
    outputs={"/sandbox/a": 10, "/sandbox/b": 10},
    limits=SandboxLimits(log_chars=5),
)
FACTS = {
    "nonce": "n",
    "exit_code": 0,
    "timed_out": False,
    "cancelled": False,
    "out_of_memory": False,
    "wall_s": 1.5,
    "cpu_s": 0.5,
    "own_cpu_s": 0.25,
    "written_bytes": 5,
    "peak_memory_bytes": 1000,
    "log_dropped_chars": 0,
    "log_size": 3,
    "outputs": [[2, None], [None, "missing"]],
    "difference_size": 4,
    "difference_problem": None,
}
CONTENTS = b"logaadiff"


def frame(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">cQ", kind, len(payload)) + payload


def result(contents: bytes = CONTENTS, **changes) -> bytes:
    text = json.dumps(FACTS | changes).encode()
    return frame(b"R", struct.pack(">I", len(text)) + text + contents)


def read(content: bytes, piece: int = 7):
    reader = ReplyReader(SPEC, "n")
    for at in range(0, len(content), piece):
        reader.feed(content[at : at + piece])
    return reader


@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_a_result_in_pieces_of_any_size(piece):
    reader = read(frame(b"S", b"") + result() + b"what follows is ignored", piece)
    assert reader.started
    assert reader.complete
    end = reader.exit(Measured(cpu_s=0.75))
    assert end.log == b"log"
    assert [(file.content, file.problem) for file in end.outputs] == [(b"aa", None), (None, "missing")]
    assert end.difference == b"diff"
    assert (end.exit.wall_s, end.exit.cpu_s, end.exit.peak_memory_bytes) == (1.5, 0.5, 1000)


def test_reading_the_repository_is_not_the_commands_processor_time():
    counted = {
        "by the group": Measured(cpu_s=0.75),
        "by a group that came too late": Measured(cpu_s=0.1),
        "by the supervisor": Measured(),
    }
    told = {name: read(result()).exit(measured).exit.cpu_s for name, measured in counted.items()}
    assert told == {"by the group": 0.5, "by a group that came too late": 0.0, "by the supervisor": 0.5}


@pytest.mark.parametrize(
    "content",
    [
        b"Traceback (most recent call last)",
        frame(b"X", b""),
        frame(b"S", b"x"),
        struct.pack(">cQ", b"R", 1 << 62),
        struct.pack(">cQ", b"L", 1 << 20),
        frame(b"E", b"No space left on device"),
    ],
)
def test_bytes_that_no_supervisor_sends_fail_at_once(content):
    with pytest.raises(SandboxFailed):
        read(content)


@pytest.mark.parametrize(
    "changes",
    [
        {"nonce": "guessed"},
        {"nonce": "é"},
        {"log_size": -1},
        {"log_size": 1 << 62},
        {"log_size": 21, "contents": b"x" * 21 + b"aadiff"},
        {"outputs": []},
        {"outputs": [[2, None]]},
        {"outputs": [[11, None], [None, "missing"]], "contents": b"log" + b"a" * 11 + b"diff"},
        {"outputs": [[2, "missing"], [None, "missing"]]},
        {"outputs": [[None, None], [2, None]]},
        {"exit_code": 1 << 40},
        {"wall_s": -1.0},
        {"peak_memory_bytes": -1},
        {"contents": CONTENTS + b"more"},
        {"contents": CONTENTS[:-1]},
        {"difference_size": None},
        {"unknown": 1},
        {"timed_out": "yes"},
    ],
)
def test_results_that_do_not_add_up_are_refused(changes):
    reader = read(result(**changes))
    assert reader.complete
    with pytest.raises(SandboxFailed, match=r"forged|damaged"):
        reader.exit(Measured())


@given(st.binary(max_size=300))
def test_any_payload_is_a_result_or_a_failure(payload):
    reader = read(frame(b"R", payload), 64)
    with pytest.raises(SandboxFailed):
        reader.exit(Measured())


@pytest.mark.parametrize(
    ("log", "dropped", "expected", "missing"),
    [
        (b"12345", 0, "12345", 0),
        (b"123456", 0, "<truncated 1 chars>23456", 1),
        ("ééééé".encode(), 0, "ééééé", 0),
        ("éééééé".encode(), 0, "<truncated 1 chars>ééééé", 1),
        (b"\x80\x80rest", 7, "<truncated 7 chars>rest", 7),
        (b"\xff\xfe", 0, "��", 0),
        (b"", 0, "", 0),
    ],
)
def test_the_log_is_trimmed_to_characters(log, dropped, expected, missing):
    contents = log + b"aadiff"
    end = read(result(contents, log_size=len(log), log_dropped_chars=dropped)).exit(Measured())
    assert end.log.decode() == expected
    assert end.exit.log_truncated_chars == missing


def test_out_of_memory_is_only_said_of_a_command_that_did_not_end_well():
    seen = Measured(out_of_memory=True)
    assert read(result(exit_code=-9)).exit(seen).exit.out_of_memory
    assert read(result(exit_code=None)).exit(seen).exit.out_of_memory
    assert not read(result(exit_code=0)).exit(seen).exit.out_of_memory


def test_the_nonce_is_not_on_the_command_line():
    started = launch(SPEC, env={}, rlimits={})
    assert started.nonce not in " ".join(started.command)
    assert started.nonce != launch(SPEC, env={}, rlimits={}).nonce
