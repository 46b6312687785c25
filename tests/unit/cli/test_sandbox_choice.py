"""Which sandbox is said to be used, and why not the better one."""

import pytest

from ridges.cli.sandbox_choice import Technology, first_fit


def technology(name, reason=None, remedy=None):
    return Technology(name=name, works=reason is None, reason=reason, remedy=remedy)


NO_IMAGE = technology(
    "docker", "the sandbox image ridges-agent:latest is not on this machine", "build it: ./just images agent"
)
WITHOUT_IMAGE = (
    "sandbox: bubblewrap, because the sandbox image ridges-agent:latest is not on this machine; "
    "build it: ./just images agent"
)
CASES = {
    "docker works": ([technology("docker"), technology("bubblewrap")], ("docker", "sandbox: docker")),
    "the image is missing": (
        [NO_IMAGE, technology("bubblewrap")],
        ("bubblewrap", WITHOUT_IMAGE),
    ),
    "only what was configured": ([technology("process")], ("process", "sandbox: process")),
    "none works": ([NO_IMAGE, technology("bubblewrap", "no namespaces", "allow them")], None),
    "nothing is known": ([], None),
}


@pytest.mark.parametrize("case", CASES)
def test_the_first_that_works(case):
    candidates, expected = CASES[case]
    assert first_fit(candidates) == expected
