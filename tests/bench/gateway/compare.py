"""Our gateway beside nginx, LiteLLM proxy and Portkey: one worker each, in turn, in front of the same mock provider.

    python tests/bench/gateway/compare.py [--only nginx,ridges,litellm,portkey] [--quick] [--json FILE]

Prints a Markdown table; nothing here passes or fails on time, but a call that is not answered, not seen once by the
provider, or not once in our log voids its figure. Needs a C compiler. LiteLLM and Portkey are installed into
a scratch folder (kept for the next time: ``--scratch``). ``ridges`` measures all variants; name one to measure only it.
"""

import argparse
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from contenders import Contender, Nginx, NotMeasured
from measures import FULL, QUICK, Bench, Figures
from native import LoadGenerator, MockProvider, compile_native
from process_figures import fsync_ms, touch_memory, wait_for_calm
from report import as_json, markdown
from ridges_contender import RidgesGateway, RidgesWithoutLog
from rivals import LiteLlm, Portkey

from ridges.chassis import logs

CALM_SHARE = 0.10

Make = Callable[[Path], Contender]


def contenders(provider: MockProvider, installs: Path) -> dict[str, Make]:
    """All of them by the name for ``--only``, in the order of measuring."""
    url = provider.base_url
    return {
        "nginx": lambda folder: Nginx(folder, provider.port),
        "ridges-durable": lambda folder: RidgesGateway("ridges", folder, url),
        "ridges-no-contents": lambda folder: RidgesGateway("ridges, no contents", folder, url, contents="none"),
        "ridges-no-fsync": lambda folder: RidgesGateway("ridges, no fsync", folder, url, sync=False),
        "ridges-no-log": lambda folder: RidgesWithoutLog("ridges, no log", folder, url),
        "litellm": lambda folder: LiteLlm(folder, installs, url),
        "portkey": lambda folder: Portkey(folder, installs, url),
    }


def chosen(makers: dict[str, Make], only: str | None) -> dict[str, Make]:
    if only is None:
        return makers
    wanted = [name.strip() for name in only.split(",")]
    unknown = [name for name in wanted if name not in makers and name != "ridges"]
    if unknown:
        sys.exit(f"unknown contender {unknown[0]!r}; there are: ridges, {', '.join(makers)}")
    return {
        name: make
        for name, make in makers.items()
        if name in wanted or ("ridges" in wanted and name.startswith("ridges-"))
    }


def say(text: str) -> None:
    sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S} {text}\n")
    sys.stderr.flush()


def run(options: argparse.Namespace, folder: Path) -> None:
    touch_memory()
    programs = compile_native(folder)
    provider = MockProvider(programs["mock_provider"])
    bench = Bench(provider, LoadGenerator(programs["load"], folder), QUICK if options.quick else FULL)
    figures: dict[str, Figures] = {}
    described: dict[str, str] = {}
    notes: list[str] = []
    machine = [machine_line(folder)]
    try:
        for name, make in chosen(contenders(provider, options.scratch), options.only).items():
            try:
                measure_one(name, make(folder / name), bench, options.patience, figures, described, notes)
            except NotMeasured as reason:
                notes.append(f"{name}: not measured: {reason}")
                say(notes[-1])
    finally:
        provider.stop()
    print(markdown(figures, described, machine, notes))
    if options.json:
        options.json.write_bytes(as_json(figures, described=described, machine=machine, notes=notes))


def measure_one(
    name: str,
    contender: Contender,
    bench: Bench,
    patience_s: float,
    figures: dict[str, Figures],
    described: dict[str, str],
    notes: list[str],
) -> None:
    share = wait_for_calm(CALM_SHARE, patience_s)
    say(f"{name}: starts; others use {share:.0%} of the machine")
    began = time.monotonic()

    def problem(text: str) -> None:
        notes.append(f"void: {text}")
        say(notes[-1])

    try:
        contender.prepare()
        figures[contender.name] = bench.measure(contender, problem)
        described[contender.name] = contender.described
    finally:
        contender.stop()
    say(f"{name}: done after {time.monotonic() - began:.0f} s")


def machine_line(folder: Path) -> str:
    kind = subprocess.run(
        ["stat", "-f", "-c", "%T", str(folder)], capture_output=True, text=True, check=False
    ).stdout.strip()
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores shared by server, provider, load and log; Python "
        f"{platform.python_version()}, Linux {platform.release()}; 4 kB fsync on the log's disk ({kind}): "
        f"{fsync_ms(folder):.2f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="comma-separated names")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes for each; noisier")
    parser.add_argument("--patience", type=float, default=60, help="most seconds to wait for a calm machine, each time")
    parser.add_argument("--json", type=Path, help="also write the figures as JSON")
    logs.configure("bench", "console", "warning")
    default = Path(tempfile.gettempdir()) / "ridges-bench"
    parser.add_argument("--scratch", type=Path, default=default, help="where LiteLLM and Portkey are installed")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that every server is stopped
    with tempfile.TemporaryDirectory(prefix="ridges-bench-") as folder:
        run(options, Path(folder))


if __name__ == "__main__":
    main()
