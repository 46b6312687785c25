"""``ridges image build``: the agent image from the project's source, or an image of one's own."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from ridges.cli.config import project_source
from ridges.cli.errors import CliError, UsageError
from ridges.cli.system import say

AGENT_IMAGE = "ridges-agent:latest"
_FITNESS = (
    'python3 -I -c "import sys; sys.exit(sys.version_info < (3, 8))" || echo "python3, 3.8 or newer"; '
    "git --version >/dev/null 2>&1 || echo git; bash --version >/dev/null 2>&1 || echo bash"
)
_ANSWER_S = 60
_ENGINE_ANSWER_S = 15


def build_image(dockerfile: Path | None, tag: str | None, base: str | None) -> str:
    """Builds it; the name under which sandboxes find it.

    Args:
        dockerfile: of one's own, with its folder as context; null = the project's agent image.
        tag: name of an image of one's own.
        base: what it stands on, handed over as build argument ``BASE_IMAGE``; null = the Dockerfile's own choice.

    Raises:
        CliError: no engine, no source, a build that failed, or an image that sandboxes cannot use.
    """
    need_engine()
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


def try_agent_image(limit_s: float) -> None:
    """Builds the agent image where an engine answers that lacks it. What hinders a build is said, not raised."""
    if _engine_trouble() is not None or _has_image(AGENT_IMAGE) or project_source() is None:
        return
    say(f"the image {AGENT_IMAGE} is missing: trying to build it, once, for at most {limit_s / 60:.0f} minutes …")
    try:
        _build_agent(None, limit_s)
    except CliError as error:
        say(str(error))


def _has_image(tag: str) -> bool:
    return _ask_engine("image", "inspect", tag) is None


def need_engine() -> None:
    """Raises CliError, with what mends it, when no Docker Engine answers."""
    remedy = "install and start one (infra/ci/install-docker.sh), or use the sandbox bubblewrap, which needs no image"
    if trouble := _engine_trouble():
        raise CliError(f"{trouble}; {remedy}")


def _engine_trouble() -> str | None:
    if shutil.which("docker") is None:
        return "there is no program `docker` on PATH"
    words = _ask_engine("version", "--format", "{{.Server.Version}}")
    return None if words is None else f"no Docker Engine answers: {words}"


def _ask_engine(*question: str) -> str | None:
    """The last line of what the engine complains about; null when it does not."""
    try:
        asked = subprocess.run(
            ["docker", *question], capture_output=True, text=True, timeout=_ENGINE_ANSWER_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"silent for {_ENGINE_ANSWER_S} s"
    return (asked.stderr.strip().splitlines() or ["no reason given"])[-1] if asked.returncode else None


def _build_agent(base: str | None, limit_s: float | None = None) -> None:
    source = project_source()
    if source is None:
        raise CliError(
            "the recipe of the agent image is not here; run this in the project's source, "
            "or build an image of your own: ridges image build --file DOCKERFILE --tag NAME"
        )
    environment = dict(os.environ) | {"IMAGE_TAG": "latest"} | ({"BASE_IMAGE": base} if base else {})
    _run([str(source / "just"), "images", "agent"], environment, cwd=source, limit_s=limit_s)


def _run(
    command: list[str], environment: dict[str, str], cwd: Path | None = None, limit_s: float | None = None
) -> None:
    """Raises CliError when it fails or takes longer than it may; then nothing of it goes on."""
    say(f"running {' '.join(command)} …")
    with subprocess.Popen(
        command, env=environment, cwd=cwd, stdin=subprocess.DEVNULL, stdout=sys.stderr, process_group=0
    ) as running:
        try:
            code = running.wait(limit_s)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise CliError(f"the image was not built: `{' '.join(command)}` took over {limit_s:.0f} s") from error
            raise
    if code:
        raise CliError(f"the image was not built: `{' '.join(command)}` ended with exit code {code}")


def _need_fitness(tag: str) -> None:
    """What the first process of a sandbox needs, and what agents rely on."""
    command = ["docker", "run", "--rm", "--network", "none", "--entrypoint", "sh", tag, "-c", _FITNESS]
    looked = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_S, check=False)
    missing = ["sh"] if looked.returncode in (126, 127) else looked.stdout.split("\n")[:-1]
    if missing:
        raise CliError(f"{tag} was built, but sandboxes cannot use it: it lacks {', '.join(missing)}")
