"""The operator's ceilings hold for every run, and say which setting is in the way."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from ridges.contracts.faults import RULES, Cause, Fault
from ridges.contracts.limits import MIB, SandboxLimits
from ridges.sandbox_manager.ceilings import BoundedSandbox, Ceilings
from ridges.sandbox_manager.errors import LimitsRefused
from ridges.sandbox_manager.mishaps import mishap_of
from ridges.sandbox_manager.ports import SandboxSpec
from ridges.sandbox_manager.settings import ManagerSettings

SPEC = SandboxSpec(
    sandbox_id="s",
    run_id="r",
    kind="agent",
    files=(),
    command=("true",),
    env={},
    limits=SandboxLimits(cpus=2, memory_bytes=2048 * MIB, pids=256, disk_bytes=1024 * MIB, log_chars=1000),
    timeout_s=600,
    deadline=datetime(2026, 1, 1, tzinfo=UTC),
)


class Recorder:
    """A sandbox that only notes what it was asked to run."""

    name = "docker"

    def __init__(self):
        self.ran = []

    async def run(self, spec, cancelled):
        self.ran.append(spec)
        return "ended"

    async def check(self):
        """Works."""

    async def sweep(self, live):
        return len(live)


@pytest.mark.parametrize(
    ("field", "below", "equal"),
    [
        ("cpus", 1.5, 2),
        ("memory_bytes", 2047 * MIB, 2048 * MIB),
        ("pids", 255, 256),
        ("disk_bytes", 1023 * MIB, 1024 * MIB),
        ("log_chars", 999, 1000),
        ("timeout_s", 599.0, 600.0),
    ],
)
async def test_what_is_over_a_ceiling_is_refused_before_anything_starts(field, below, equal):
    recorder = Recorder()
    with pytest.raises(LimitsRefused, match=rf"run r .*{field} .* is over .*RIDGES_MAX_{field.upper()}"):
        await BoundedSandbox(recorder, Ceilings(**{field: below})).run(SPEC, asyncio.Event())
    assert recorder.ran == []
    assert await BoundedSandbox(recorder, Ceilings(**{field: equal})).run(SPEC, asyncio.Event()) == "ended"
    assert recorder.ran == [SPEC], "never run with less than was asked for"


def test_everything_that_is_too_much_is_said_at_once():
    with pytest.raises(LimitsRefused, match=r"cpus.*pids.*timeout_s"):
        Ceilings(cpus=1, pids=8, timeout_s=1).check(SPEC, "docker")


def test_runtimes_are_allowed_one_by_one_and_need_docker():
    asked = msgspec.structs.replace(SPEC, limits=SandboxLimits(runtime="runsc"))
    Ceilings(runtimes=("kata", "runsc")).check(asked, "docker")
    with pytest.raises(LimitsRefused, match=r"runtime runsc is not allowed \(RIDGES_ALLOWED_RUNTIMES\)"):
        Ceilings(runtimes=("kata",)).check(asked, "docker")
    with pytest.raises(LimitsRefused, match="needs the sandbox docker"):
        Ceilings(runtimes=("runsc",)).check(asked, "bubblewrap")


def test_a_relay_beside_the_sandbox_is_dockers_and_may_be_forbidden():
    asked = msgspec.structs.replace(SPEC, limits=SandboxLimits(network="internal"))
    Ceilings().check(asked, "docker")
    with pytest.raises(LimitsRefused, match=r"network internal needs the sandbox docker, .* would use bubblewrap"):
        Ceilings().check(asked, "bubblewrap")
    with pytest.raises(LimitsRefused, match=r"network internal is not allowed \(RIDGES_ALLOWED_NETWORKS\)"):
        Ceilings(networks=("socket",)).check(asked, "docker")
    Ceilings(networks=("socket",)).check(msgspec.structs.replace(asked, kind="evaluation"), "bubblewrap")


def test_images_are_allowed_by_pattern():
    asked = msgspec.structs.replace(SPEC, image="example.org/tools:1")
    Ceilings().check(asked, "docker")
    Ceilings(images=("ridges-*", "example.org/*")).check(asked, "docker")
    with pytest.raises(LimitsRefused, match="RIDGES_ALLOWED_IMAGES"):
        Ceilings(images=("ridges-*",)).check(asked, "docker")
    Ceilings(images=("ridges-*",)).check(SPEC, "docker")
    with pytest.raises(LimitsRefused, match=r"image example\.org/tools:1 needs the sandbox docker"):
        Ceilings().check(asked, "bubblewrap")


def test_the_managers_own_runtime_may_be_asked_for():
    chosen = ManagerSettings(
        run_token_key="5a" * 32, state_dir=Path("/s"), blobs_url="file:///b", docker_runtime="kata", max_cpus=4.0
    )
    assert Ceilings.of(chosen) == Ceilings(cpus=4.0, runtimes=("kata",))


def test_the_managers_own_network_may_be_asked_for():
    chosen = ManagerSettings(
        run_token_key="5a" * 32,
        state_dir=Path("/s"),
        blobs_url="file:///b",
        docker_network="internal",
        allowed_networks=("socket",),
    )
    assert set(Ceilings.of(chosen).networks) == {"socket", "internal"}


def test_it_is_the_users_fault_and_not_tried_again():
    mishap = mishap_of(LimitsRefused("r", "cpus"))
    assert (mishap.cause, mishap.retry) == (Cause.LIMITS_REFUSED, False)
    assert RULES[mishap.cause].fault is Fault.USER
