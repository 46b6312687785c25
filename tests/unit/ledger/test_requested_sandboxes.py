"""A run's image and sandbox limits: what was asked for, else the problem's, else the defaults."""

import pytest
from unit.ledger.samples import AGENT, RUN

from ridges.contracts.limits import SandboxLimits
from ridges.contracts.requests import RequestedLimits, RequestedSandbox, RequestRun
from ridges.ledger.errors import RequestRefused

LARGE, SMALL = SandboxLimits(cpus=4.0, pids=99), RequestedSandbox(cpus=0.5)


def asked(**fields):
    return RequestRun(problem="fix-a", agent_source=AGENT.decode(), run_id=RUN, **fields)


@pytest.mark.parametrize(
    ("problem", "request_", "image", "cpus"),
    [
        ({}, {}, None, 1.0),
        ({"image": "p", "sandbox": LARGE}, {}, "p", 4.0),
        ({"image": "p", "sandbox": LARGE}, {"image": "r", "limits": RequestedLimits(sandbox=SMALL)}, "r", 0.5),
    ],
)
async def test_the_request_goes_before_the_problem(wired, problem, request_, image, cpus):
    await wired.add(wired.author.published("fix-a", **problem))
    await wired.requests.request_run(asked(**request_))
    [recorded] = await wired.store.read_run(RUN)
    assert (recorded.event.image, recorded.event.limits.sandbox.cpus) == (image, cpus)


async def test_asking_again_with_another_image_is_another_request(wired):
    await wired.add(wired.author.published("fix-a", image="p"))
    first = await wired.requests.request_run(asked())
    assert await wired.requests.request_run(asked()) == first
    with pytest.raises(RequestRefused, match="another image"):
        await wired.requests.request_run(asked(image="other"))


async def test_what_is_not_asked_for_comes_from_the_problem_and_asking_again_is_the_same_run(wired):
    await wired.add(wired.author.published("fix-a", sandbox=LARGE))
    first = await wired.requests.request_run(asked(limits=RequestedLimits(sandbox=SMALL)))
    [recorded] = await wired.store.read_run(RUN)
    assert recorded.event.limits.sandbox == SandboxLimits(cpus=0.5, pids=99)
    assert await wired.requests.request_run(asked(limits=RequestedLimits(sandbox=SMALL))) == first
    with pytest.raises(RequestRefused, match="another limits"):
        await wired.requests.request_run(asked(limits=RequestedLimits(sandbox=RequestedSandbox(cpus=0.6))))
