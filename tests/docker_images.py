"""The Docker Engine as tests need it."""

import os
import subprocess

import pytest

AGENT_IMAGE = "ridges-agent:latest"


def docker(*args: str) -> str:
    """What the command line says. Raises ``CalledProcessError``."""
    done = subprocess.run(["docker", *args], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def need_agent_image() -> None:
    """Skips where no engine answers or the image is missing; with RIDGES_REQUIRE_DOCKER=1 that is a failure."""
    try:
        docker("image", "inspect", AGENT_IMAGE)
    except (OSError, subprocess.SubprocessError) as error:
        reason = f"no Docker Engine with the image {AGENT_IMAGE} (./just images agent): {error}"
        if os.environ.get("RIDGES_REQUIRE_DOCKER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
