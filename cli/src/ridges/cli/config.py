"""Where the user's folder is and what its ``ridges.toml`` says to the embedded system.

The gateway reads the ``[[provider]]`` tables of the same file; their contents are its business.
"""

import os
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ridges.cli.errors import UsageError
from ridges.contracts.limits import MIB, Network

CONFIG_FILE = "ridges.toml"
SANDBOX_VARIABLES = (
    "RIDGES_AGENT_IMAGE",
    "RIDGES_AGENT_PYTHON",
    "RIDGES_ALLOW_PROCESS",
    "RIDGES_ALLOWED_IMAGES",
    "RIDGES_ALLOWED_NETWORKS",
    "RIDGES_ALLOWED_RUNTIMES",
    "RIDGES_DOCKER_NETWORK",
    "RIDGES_DOCKER_RUNTIME",
    "RIDGES_DOCKER_URL",
    "RIDGES_EVALUATION_SLOTS",
    "RIDGES_MAX_CPUS",
    "RIDGES_MAX_DISK_BYTES",
    "RIDGES_MAX_LOG_CHARS",
    "RIDGES_MAX_MEMORY_BYTES",
    "RIDGES_MAX_PIDS",
    "RIDGES_MAX_TIMEOUT_S",
    "RIDGES_MEMORY_BYTES",
    "RIDGES_MIN_FREE_BYTES",
    "RIDGES_SLOTS",
)
"""Settings of the sandbox-manager, named in its messages, that the embedded one takes from the user's environment."""
SandboxChoice = Literal["auto", "docker", "bubblewrap", "process"]
Slots = Annotated[int, Meta(ge=1, le=256)]
Bytes = Annotated[int, Meta(ge=64 * MIB)]
Name = Annotated[str, Meta(min_length=1, max_length=300, pattern="^[^,]+$")]
_VARIABLES = {"image": "RIDGES_AGENT_IMAGE", "runtime": "RIDGES_DOCKER_RUNTIME", "network": "RIDGES_DOCKER_NETWORK"}
"""Keys of ``[sandbox]`` that are not called as the sandbox-manager's setting is."""
Port = Annotated[int, Meta(ge=1, le=65_535)]


class SandboxSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[sandbox]``"""

    default: SandboxChoice = "auto"
    slots: Slots | None = None
    """Agent sandboxes at once; default: two per core, fewer where memory is short."""
    evaluation_slots: Slots | None = None
    """Evaluations at once; default: one per core."""
    memory_bytes: Bytes | None = None
    """What the memory limits of all agents at work add up to; default: 80 % of the machine's less the evaluations'."""
    min_free_bytes: Annotated[int, Meta(ge=0)] | None = None
    """With less left on the disk nothing is started."""
    image: str | None = None
    agent_python: str | None = None
    runtime: Name | None = None
    """OCI runtime of Docker sandboxes; default: the engine's."""
    network: Network | None = None
    """Network mode of Docker sandboxes; default: socket."""
    max_cpus: Annotated[float, Meta(gt=0)] | None = None
    """Ceilings: a run that asks for more in one sandbox is refused."""
    max_memory_bytes: Bytes | None = None
    max_pids: Annotated[int, Meta(ge=8)] | None = None
    max_disk_bytes: Annotated[int, Meta(ge=MIB)] | None = None
    max_log_chars: Annotated[int, Meta(ge=0)] | None = None
    max_timeout_s: Annotated[float, Meta(ge=1)] | None = None
    allowed_images: tuple[Name, ...] = ()
    """Patterns of images that runs may name; default: all."""
    allowed_runtimes: tuple[Name, ...] = ()
    """OCI runtimes that runs may ask for besides ``runtime``."""
    allowed_networks: tuple[Network, ...] = ()
    """Network modes that runs may ask for besides ``network``; default: both."""


class ProblemsSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[problems]``"""

    dirs: tuple[str, ...] = ("examples/problems",)


class PortsSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[ports]``: fixed ports on 127.0.0.1; absent = a free one."""

    nats: Port | None = None
    ledger: Port | None = None
    gateway: Port | None = None
    sandbox_manager: Port | None = None
    evaluator: Port | None = None


class RunSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[run]``: what `ridges run` and `ridges demo` do unless told otherwise."""

    model: str | None = None
    """Handed to agents as RIDGES_MODEL."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parts of ``ridges.toml`` that the embedded system reads."""

    sandbox: SandboxSection = SandboxSection()
    problems: ProblemsSection = ProblemsSection()
    ports: PortsSection = PortsSection()
    run: RunSection = RunSection()
    provider: list[dict[str, object]] = []


def project_root(start: Path | None = None) -> Path:
    """The nearest folder upwards that holds ``ridges.toml``, else the current one. ``RIDGES_ROOT`` overrides."""
    if override := os.environ.get("RIDGES_ROOT"):
        return Path(override).resolve()
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / CONFIG_FILE).is_file():
            return folder
    return here


def project_source() -> Path | None:
    """The project's source: around the user's folder, else where this program is installed from."""
    for start in (project_root(), Path(__file__).resolve()):
        for folder in (start, *start.parents):
            if (folder / "infra" / "images" / "build.sh").is_file() and (folder / "just").is_file():
                return folder
    return None


def read_config(root: Path) -> Config:
    """The folder's configuration; defaults where there is no file.

    Raises:
        UsageError: not TOML, unknown key, wrong type; names the file and the place.

    """
    path = root / CONFIG_FILE
    if not path.is_file():
        return Config()
    try:
        return msgspec.convert(tomllib.loads(path.read_text("utf-8")), Config)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: {error}; see the comments in the example ridges.toml") from error


def provider_key_variables(config: Config) -> set[str]:
    """Names of the environment variables that hold provider keys: only the gateway gets them."""
    return {str(provider["key_env"]) for provider in config.provider if provider.get("key_env")}


def live_model(config: Config) -> str | None:
    """The model a demo uses: ``[run] model``, else the first of a provider that is no recording and has its key."""
    if config.run.model:
        return config.run.model
    for provider in config.provider:
        key = provider.get("key_env")
        models = provider.get("model")
        if provider.get("kind") == "replay" or (key and not os.environ.get(str(key))) or not isinstance(models, list):
            continue
        for model in models:
            if isinstance(model, dict) and model.get("kind", "chat") == "chat" and "name" in model:
                return str(model["name"])
    return None


def sandbox_environment(config: Config, root: Path) -> dict[str, str]:
    """Settings of the sandbox-manager: those of the configuration, then those that the user's environment overrides."""
    chosen = msgspec.structs.asdict(config.sandbox)
    del chosen["default"], chosen["agent_python"]
    settings = {
        _VARIABLES.get(key, f"RIDGES_{key.upper()}"): ",".join(value) if isinstance(value, tuple) else str(value)
        for key, value in chosen.items()
        if value not in (None, "", ())
    }
    if interpreter := agent_environment(config, root):
        settings["RIDGES_AGENT_PYTHON"] = interpreter
    return settings | {name: os.environ[name] for name in SANDBOX_VARIABLES if name in os.environ}


def agent_environment(config: Config, root: Path) -> str | None:
    """The interpreter with the packages that agents expect, for sandboxes without an image; null when none was made."""
    if config.sandbox.agent_python:
        return config.sandbox.agent_python
    made = root / ".venv-agent" / "bin" / "python"
    return str(made) if made.exists() else None
