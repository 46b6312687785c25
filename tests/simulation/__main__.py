"""``./just simulate``: play seeds, or one of them with every log line.

Exit code 1: an invariant broke; the last lines say which and how to play it again.
"""

import argparse
import gc
import hashlib
import logging
import os
import sys
import tempfile
import time
from pathlib import Path

import structlog

if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets is a part of what happens
    os.environ["PYTHONHASHSEED"] = "0"
    os.execv(sys.executable, [sys.executable, "-m", "simulation", *sys.argv[1:]])

from grading import CREATE, write_folder
from simulation.faulty_store import SABOTAGES
from simulation.services import without_http
from simulation.tracing import trace
from simulation.world import PROBLEM, simulate

COLLECT_EVERY = 25


def main() -> int:
    options = _options()
    without_http()
    if not options.trace:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    gc.collect()
    gc.freeze()
    gc.disable()
    began, played, events, failed, digest = time.monotonic(), 0, 0, 0, hashlib.sha256()
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        problems = Path(folder) / "problems"
        write_folder(problems / PROBLEM, CREATE)
        tables = Path(folder) / "ledger"
        tables.mkdir()
        for seed in options.seeds:
            if options.trace:
                trace()
            outcome = simulate(seed, tables, problems, sabotage=options.sabotage)
            if seed % options.twice_every == 0:
                again = simulate(seed, tables, problems, sabotage=options.sabotage)
                if again.events != outcome.events:
                    outcome.failures.append(f"played twice, it went differently: {_first_difference(outcome, again)}")
            played, events = played + 1, events + len(outcome.events)
            digest.update(repr(outcome.events).encode())
            if outcome.failures:
                failed += 1
                _tell(outcome, options.sabotage)
                if failed >= options.most_failures:
                    break
            if played % COLLECT_EVERY == 0:
                gc.collect()
            if options.trace:
                _show(outcome)
    took_s = time.monotonic() - began
    print(f"{played} seeds, {events} events, {failed} failed, digest {digest.hexdigest()[:16]}")
    print(f"{took_s:.1f} s, {1000 * took_s / max(played, 1):.0f} ms a seed")
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./just simulate", description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--seed", type=int, help="play this one")
    which.add_argument("--seeds", default="0:200", help="play these, FIRST:LAST+1 (default 0:200), or FIRST:END:STEP")
    parser.add_argument("--trace", action="store_true", help="show every log line and the whole log")
    parser.add_argument("--sabotage", choices=tuple(SABOTAGES), help="break something on purpose, to see it found")
    parser.add_argument("--twice-every", type=int, default=50, help="play each n-th seed twice and compare")
    parser.add_argument("--most-failures", type=int, default=5, help="stop after so many failed seeds")
    options = parser.parse_args()
    if options.seed is not None:
        options.seeds = [options.seed]
    else:
        options.seeds = range(*map(int, options.seeds.split(":")))
    return options


def _memory() -> str | None:
    """A file system in memory, where there is one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _tell(outcome, sabotage: str | None) -> None:
    broken = f" --sabotage {sabotage}" if sabotage else ""
    print(f"seed {outcome.seed} failed ({outcome.runs} runs, {outcome.kills} kills, {outcome.seconds:.0f} virtual s):")
    for failure in outcome.failures[:10]:
        print(f"  {failure}")
    print(f"  again, with every step: ./just simulate --seed {outcome.seed} --trace{broken}", flush=True)


def _show(outcome) -> None:
    for position, event_id, kind in outcome.events:
        print(f"{position:5} {event_id} {kind}")


def _first_difference(one, other) -> str:
    pairs = zip(one.events, other.events, strict=False)
    return str(next((pair for pair in pairs if pair[0] != pair[1]), f"lengths {len(one.events)}, {len(other.events)}"))


if __name__ == "__main__":
    sys.exit(main())
