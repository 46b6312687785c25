"""All four services under seeded faults on a virtual clock: what must hold, holds; and the simulation can fail.

``RIDGES_SEEDS`` (FIRST:END) plays others than the first 2,000. A failed seed prints how to play it again.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from simulation.faulty_store import SABOTAGES

TESTS = Path(__file__).parents[1]
SEEDS = os.environ.get("RIDGES_SEEDS", "0:2000")
FIRST, END = map(int, SEEDS.split(":"))
FOUND_WITHIN = 300


def playing(*args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "simulation", *args],
        cwd=TESTS,
        env=os.environ | {"PYTHONHASHSEED": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.timeout(1_200 + (END - FIRST) // 10)
def test_nothing_is_lost_charged_twice_overspent_or_left_without_an_end():
    cores = len(os.sched_getaffinity(0))
    players = [playing("--seeds", f"{FIRST + core}:{END}:{cores}") for core in range(min(cores, END - FIRST))]
    told = [player.communicate()[0] for player in players]
    assert all(player.returncode == 0 for player in players), "\n".join(told)[-8_000:]
    assert sum(int(line.split()[0]) for text in told for line in text.splitlines() if " seeds, " in line) == END - FIRST


@pytest.mark.parametrize(("sabotage", "found"), SABOTAGES.items())
def test_what_is_broken_on_purpose_is_found_and_can_be_played_again(sabotage, found):
    player = playing("--seeds", f"0:{FOUND_WITHIN}", "--sabotage", sabotage, "--most-failures", "2")
    told, _ = player.communicate()
    assert player.returncode == 1, told
    assert f"\n  {found}: " in told
    assert f"./just simulate --seed {told.split()[1]} --trace --sabotage {sabotage}" in told


def test_a_seed_goes_the_same_way_in_every_process():
    players = [playing("--seeds", "0:30") for _ in range(2)]
    one, other = (player.communicate()[0].splitlines()[0] for player in players)
    assert one == other
    assert "digest" in one
