"""Logs: one JSON object a line on stderr, and never the values of local variables."""

import json
import subprocess
import sys

import pytest

from ridges.chassis import logs

PROGRAM = """
import logging, sys
import structlog
from litestar import Litestar
from ridges.chassis import logs

logs.configure("gateway", {log_format!r}, "info")
Litestar(logging_config=None)
log = structlog.get_logger("any").bind(run_id="r-1")
log.debug("too fine")
log.info("hello", n=1)
logging.getLogger("foreign").warning("from %s", "outside")
def call():
    provider_key = "sk-" + "very" + "secret"
    raise RuntimeError("boom")
try:
    call()
except RuntimeError as error:
    log.error("failed", exc_info=error)
    logging.getLogger("foreign").exception("also")
"""


def run(log_format):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(log_format=log_format)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "", "stdout is data"
    return done.stderr


def test_json_lines_with_service_time_level_and_bound_fields():
    entries = [json.loads(line) for line in run("json").splitlines()]
    hello, outside, failed, also = entries
    assert (hello["event"], hello["service"], hello["level"], hello["run_id"], hello["n"]) == (
        "hello",
        "gateway",
        "info",
        "r-1",
        1,
    )
    assert hello["timestamp"].endswith("Z")
    assert (outside["event"], outside["service"], outside["level"]) == ("from outside", "gateway", "warning")
    assert "RuntimeError: boom" in failed["exception"]
    assert "RuntimeError: boom" in also["exception"]


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_tracebacks_show_no_local_variables(log_format):
    told = run(log_format)
    assert "RuntimeError: boom" in told
    assert "sk-verysecret" not in told


def test_a_level_that_is_none_is_an_error():
    with pytest.raises(ValueError, match="loud"):
        logs.configure("x", "json", "loud")


def test_a_log_on_a_full_disk_does_not_break_the_work():
    program = PROGRAM.format(log_format="json") + "\nprint('to the end', flush=True)\n"
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device
        done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=full, check=False)
    assert done.stdout == b"to the end\n"
