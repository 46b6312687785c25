"""What ``ridges run`` takes for the size of a sandbox."""

import pytest

from ridges.cli.errors import UsageError
from ridges.cli.run_command import byte_count, sandbox_limits
from ridges.contracts.requests import RequestedSandbox


@pytest.mark.parametrize(
    ("text", "count"),
    [("1073741824", 1 << 30), ("512M", 512 << 20), ("2GiB", 2 << 30), ("2g", 2 << 30), ("64kb", 64 << 10)],
)
def test_amounts_have_binary_units(text, count):
    assert byte_count("--memory", text) == count


@pytest.mark.parametrize("text", ["", "much", "-1", "1.5G", "1e9", "2 x", "1GG"])
def test_what_is_no_amount_is_named_with_its_option(text):
    with pytest.raises(UsageError, match="--disk"):
        byte_count("--disk", text)


def test_only_what_is_given_is_asked_for():
    assert sandbox_limits(None, None, None, None, None, None) == RequestedSandbox()
    assert sandbox_limits(2, "1G", 99, None, "runsc", "internal") == RequestedSandbox(
        cpus=2.0, memory_bytes=1 << 30, pids=99, runtime="runsc", network="internal"
    )


@pytest.mark.parametrize(
    "given", [(0, None, None, None), (None, "1M", None, None), (1, "1G", 1, None), (1, "1G", 9, None, None, "host")]
)
def test_what_no_sandbox_can_be_is_a_usage_error(given):
    with pytest.raises(UsageError, match="the sandbox cannot be like that"):
        sandbox_limits(*given, *[None] * (6 - len(given)))
