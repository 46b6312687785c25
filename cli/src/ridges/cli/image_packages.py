"""``ridges image packages``: what an image was made of, as its build wrote it down."""

import json
import subprocess

import msgspec

from ridges.cli.errors import CliError
from ridges.cli.image_build import AGENT_IMAGE, need_engine

_LIST = "/usr/share/ridges/packages"
_BASE = "org.opencontainers.image.base"
_ANSWER_S = 60


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """One that is installed."""

    origin: str
    """debian or python"""
    name: str
    version: str


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """Of an image: everything whose version could be another one in the next build."""

    image: str
    image_id: str
    base: str | None
    base_digest: str | None
    """What a registry calls the base; of one that was made here its id."""
    packages: tuple[Package, ...]

    def lines(self) -> list[str]:
        """For people, and for diff(1)."""
        base = [f"base   {self.base} {self.base_digest}"] if self.base else []
        return [
            f"image  {self.image} {self.image_id}",
            *base,
            *(f"{each.origin} {each.name} {each.version}" for each in self.packages),
        ]


def contents_of(image: str | None) -> Contents:
    """Of an image that was made by ``ridges image build``; null = the agent image.

    Raises:
        CliError: no engine, no such image, or one that does not say.
    """
    image = image or AGENT_IMAGE
    need_engine()
    try:
        (found,) = json.loads(_docker("image", "inspect", image))
    except subprocess.CalledProcessError as error:
        raise CliError(f"the engine has no image {image}; build it: ridges image build") from error
    try:
        listed = _docker("run", "--rm", "--network", "none", "--entrypoint", "cat", found["Id"], _LIST)
    except subprocess.CalledProcessError as error:
        raise CliError(f"{image} does not say what it holds (no {_LIST}); build it anew: ridges image build") from error
    labels = found["Config"].get("Labels") or {}
    parts = [line.split(" ", 2) for line in listed.splitlines()]
    return Contents(
        image=image,
        image_id=found["Id"],
        base=labels.get(f"{_BASE}.name"),
        base_digest=labels.get(f"{_BASE}.digest"),
        packages=tuple(Package(origin=part[0], name=part[1], version=part[2]) for part in parts if len(part) == 3),
    )


def _docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=_ANSWER_S, check=True)
    return done.stdout
