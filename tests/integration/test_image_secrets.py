"""What a build and the services were given in confidence is in no image: not in its history, settings or layers."""

import base64
import os
import secrets
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from docker_images import AGENT_IMAGE, docker, need_agent_image

pytestmark = [pytest.mark.docker, pytest.mark.timeout(400)]

REPOSITORY = Path(__file__).parents[2]
IMAGES = (AGENT_IMAGE, "ridges-sandbox-manager:latest")
"""The one that agents see, and one of those that the services run from: all four are built the same way."""
GIVEN = (
    *("OPENROUTER_API_KEY", "OPENAI_API_KEY", "RIDGES_RUN_TOKEN_KEY", "RIDGES_API_TOKEN", "RIDGES_NATS_PASSWORD"),
    *("AWS_SECRET_ACCESS_KEY", "UV_PUBLISH_TOKEN", "TWINE_PASSWORD", "GITHUB_TOKEN"),
)
PIECE = 1 << 20


@pytest.fixture(scope="module")
def canary() -> bytes:
    """Was in every secret of the environment that built the images, with the base they had."""
    need_agent_image()
    canary = f"CANARY{secrets.token_hex(12)}"
    env = os.environ | dict.fromkeys(GIVEN, canary)
    if base := docker("image", "inspect", "--format", BASE_OF, AGENT_IMAGE):
        env["BASE_IMAGE"] = base
    names = [image.removeprefix("ridges-").removesuffix(":latest") for image in IMAGES]
    command = [REPOSITORY / "just", "images", *names]
    built = subprocess.run(command, env=env, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    assert built.returncode == 0, built.stderr
    assert canary not in built.stdout + built.stderr
    return canary.encode()


BASE_OF = '{{index .Config.Labels "org.opencontainers.image.base.name"}}'


@pytest.mark.parametrize("image", IMAGES)
def test_history_and_settings_of_an_image_hold_no_secret(canary, image):
    told = docker("history", "--no-trunc", image) + docker("image", "inspect", image)
    assert "CMD" in told
    assert [form for form in forms(canary) if form.decode() in told] == []


@pytest.mark.parametrize("image", IMAGES)
def test_no_layer_of_an_image_holds_a_secret(canary, image):
    assert found(image, forms(canary)) == []


def test_the_search_finds_what_is_there(tmp_path):
    """A search that finds nothing is worth as much as one that would have found it."""
    need_agent_image()
    tag, planted = f"ridges-test-{secrets.token_hex(4)}", secrets.token_hex(12).encode()
    plant = f"echo {planted.decode()} > /tmp/x && head -c 3000000 /dev/zero >> /tmp/x"
    (tmp_path / "Dockerfile").write_text(f"FROM {AGENT_IMAGE}\nRUN {plant}\nRUN rm /tmp/x\n")
    try:
        docker("build", "-q", "-t", tag, str(tmp_path))
        assert found(tag, forms(planted)) != []
        assert planted.decode() in docker("history", "--no-trunc", tag)
    finally:
        subprocess.run(["docker", "image", "rm", "-f", tag], capture_output=True, check=False)


def forms(secret: bytes) -> list[bytes]:
    """As it is, in hex, and in base64 at each offset within other text (without the ends, which depend on it)."""
    coded = [base64.b64encode(b"x" * offset + secret)[4:-4] for offset in range(3)]
    return [secret, secret.hex().encode(), *coded]


def found(image: str, wanted: list[bytes]) -> list[str]:
    """Files of ``docker save`` (layers, configuration) that hold one of them, also in what later layers deleted."""
    with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saving:
        assert saving.stdout is not None
        names, layers = [], 0
        with tarfile.open(fileobj=saving.stdout, mode="r|") as saved:
            for member in saved:
                file = saved.extractfile(member) if member.isreg() else None
                if file is None:
                    continue
                layers += member.size > PIECE
                if any(form in window for window in windows(file) for form in wanted):
                    names.append(member.name)
    assert saving.returncode == 0
    assert layers >= 2, "no layers were looked through"
    return names


def windows(file: IO[bytes]) -> Iterator[bytes]:
    """Its content in overlapping pieces, unpacked where an engine keeps layers packed."""
    piece, end = file.read(PIECE), b""
    unpack = zlib.decompressobj(wbits=31) if piece.startswith(b"\x1f\x8b") else None
    while piece:
        content = unpack.decompress(piece) if unpack else piece
        yield end + content
        end, piece = (end + content)[-200:], file.read(PIECE)
