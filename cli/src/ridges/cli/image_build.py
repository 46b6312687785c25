"""``ridges image build``: the agent image from the project's source, or an image of one's own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from ridges.cli.config import project_root
from ridges.cli.errors import CliError, UsageError
from ridges.cli.system import say

AGENT_IMAGE = "ridges-agent:latest"
_RECIPE = Path("infra", "images", "build.sh")
_FITNESS = (
    'python3 -I -c "import sys; sys.exit(sys.version_info < (3, 8))" || echo "python3, 3.8 or newer"; '
    "git --version >/dev/null 2>&1 || echo git; bash --version >/dev/null 2>&1 || echo bash"
)
_ANSWER_S = 60


def build_image(dockerfile: Path | None, tag: str | None, base: str | None) -> str:
    """Builds it; the name under which sandboxes find it.

    Args:
        dockerfile: of one's own, with its folder as context; null = the project's agent image.
        tag: name of an image of one's own.
        base: what it stands on, handed over as build argument ``BASE_IMAGE``; null = the Dockerfile's own choice.

    Raises:
        CliError: no engine, no source, a build that failed, or an image that sandboxes cannot use.
    """
    _need_engine()
    if dockerfile is None:
        if tag not in (None, AGENT_IMAGE):
            raise UsageError("--tag names an image of your own; give its --file too")
        _build_agent(base)
        return AGENT_IMAGE
    if not dockerfile.is_file():
        raise UsageError(f"there is no file {dockerfile}")
    if tag is None:
        raise UsageError("an image of your own needs a name: --tag NAME")
    arguments = ["--file", str(dockerfile), "--tag", tag]
    arguments += ["--build-arg", f"BASE_IMAGE={base}"] if base else []
    _run(["docker", "build", *arguments, str(dockerfile.parent)], dict(os.environ))
    _need_fitness(tag)
    return tag


def _need_engine() -> None:
    remedy = "install and start one (infra/ci/install-docker.sh), or use the sandbox bubblewrap, which needs no image"
    if shutil.which("docker") is None:
        raise CliError(f"there is no program `docker` on PATH; {remedy}")
    asked = subprocess.run(
        ["docker", "version", "--format", "{{.Server.Version}}"],
        capture_output=True,
        text=True,
        timeout=_ANSWER_S,
        check=False,
    )
    if asked.returncode:
        words = (asked.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise CliError(f"no Docker Engine answers: {words}; {remedy}")


def _build_agent(base: str | None) -> None:
    source = _source()
    if source is None:
        raise CliError(
            "the recipe of the agent image is not here; run this in the project's source, "
            "or build an image of your own: ridges image build --file DOCKERFILE --tag NAME"
        )
    environment = dict(os.environ) | ({"BASE_IMAGE": base} if base else {})
    _run([str(source / "just"), "images", "agent"], environment, cwd=source)


def _source() -> Path | None:
    """The project's source: around the current folder, else where this program is installed from."""
    for start in (project_root(), Path(__file__).resolve()):
        for folder in (start, *start.parents):
            if (folder / _RECIPE).is_file() and (folder / "just").is_file():
                return folder
    return None


def _run(command: list[str], environment: dict[str, str], cwd: Path | None = None) -> None:
    say(f"running {' '.join(command)} …")
    done = subprocess.run(command, env=environment, cwd=cwd, stdout=sys.stderr, check=False)
    if done.returncode:
        raise CliError(f"the image was not built: `{' '.join(command)}` ended with exit code {done.returncode}")


def _need_fitness(tag: str) -> None:
    """What the first process of a sandbox needs, and what agents rely on."""
    command = ["docker", "run", "--rm", "--network", "none", "--entrypoint", "sh", tag, "-c", _FITNESS]
    looked = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_S, check=False)
    missing = ["sh"] if looked.returncode in (126, 127) else looked.stdout.split("\n")[:-1]
    if missing:
        raise CliError(f"{tag} was built, but sandboxes cannot use it: it lacks {', '.join(missing)}")
