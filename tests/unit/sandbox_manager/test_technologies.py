"""Which sandbox technology a run gets."""

import asyncio

import pytest

from ridges.chassis.clock import SystemClock
from ridges.sandbox_manager.errors import SandboxUnavailable
from ridges.sandbox_manager.technologies import ProcessNotAllowed, Technologies


class FakeSandbox:
    def __init__(self, name: str, *, works: bool = True) -> None:
        self.name, self.works, self.checks = name, works, 0

    async def check(self) -> None:
        self.checks += 1
        if not self.works:
            raise SandboxUnavailable(f"{self.name} is broken", "mend it")

    async def sweep(self, live):
        await self.check()
        return 1


def technologies(preferred: str = "auto", *, docker: bool = True, bubblewrap: bool = True, process: bool = False):
    adapters = {
        "docker": FakeSandbox("docker", works=docker),
        "bubblewrap": FakeSandbox("bubblewrap", works=bubblewrap),
    }
    if process:
        adapters["process"] = FakeSandbox("process")
    return Technologies(adapters, preferred, SystemClock()), adapters


@pytest.mark.parametrize(
    ("requested", "preferred", "works", "picked"),
    [
        ("auto", "auto", {}, "docker"),
        ("auto", "auto", {"docker": False}, "bubblewrap"),
        ("auto", "bubblewrap", {}, "bubblewrap"),
        ("docker", "bubblewrap", {}, "docker"),
        ("bubblewrap", "auto", {}, "bubblewrap"),
        ("process", "auto", {"process": True}, "process"),
        ("auto", "process", {"process": True}, "process"),
    ],
)
async def test_the_first_that_works_of_what_is_wanted(requested, preferred, works, picked):
    choice, _ = technologies(preferred, **works)
    assert (await choice.pick(requested)).name == picked


@pytest.mark.parametrize("needed", [{"image": "x:1"}, {"runtime": "runsc"}, {"network": "internal"}])
async def test_what_needs_containers_waits_for_them_and_never_gets_something_else(needed):
    """Without its image a problem's tests fail, and that would count against the agent."""
    choice, _ = technologies("bubblewrap")
    assert (await choice.pick("auto", **needed)).name == "docker"
    choice, _ = technologies(docker=False)
    with pytest.raises(SandboxUnavailable, match="docker is broken"):
        await choice.pick("auto", **needed)
    assert (await choice.pick("auto")).name == "bubblewrap"


async def test_never_less_isolation_than_asked_for():
    choice, _ = technologies("docker", docker=False, process=True)
    with pytest.raises(SandboxUnavailable, match="docker is broken"):
        await choice.pick("auto")
    choice, _ = technologies("auto", docker=False, bubblewrap=False, process=True)
    with pytest.raises(SandboxUnavailable, match=r"docker: docker is broken.*bubblewrap: bubblewrap is broken"):
        await choice.check()


async def test_process_must_be_allowed_by_the_operator():
    choice, _ = technologies()
    with pytest.raises(ProcessNotAllowed, match="RIDGES_ALLOW_PROCESS"):
        await choice.pick("process")


async def test_a_self_test_is_believed_for_a_while():
    choice, adapters = technologies()
    for _ in range(5):
        await choice.pick("auto")
    assert adapters["docker"].checks == 1


async def test_a_self_test_that_takes_longer_than_those_who_ask_wait_comes_to_its_end():
    """On a busy machine /readyz gives up after two seconds, again and again; the sandbox works all the same."""
    choice, adapters = technologies("docker")
    docker, may_end = adapters["docker"], asyncio.Event()
    docker.check = may_end.wait
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await choice.check()
    may_end.set()
    await choice.check()
    docker.check = None
    assert (await choice.pick("auto")) is docker, "it was tested once"


async def test_a_self_test_at_work_ends_with_the_manager():
    choice, adapters = technologies("docker")
    ended = asyncio.Event()

    async def check() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    adapters["docker"].check = check
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await choice.check()
    await choice.close()
    assert ended.is_set()


async def test_a_technology_that_does_not_answer_does_not_stop_the_sweep_of_the_others():
    choice, _ = technologies(docker=False)
    assert await choice.sweep(set()) == 1
