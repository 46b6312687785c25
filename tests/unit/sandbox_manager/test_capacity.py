"""How many at once, by the machine and by the settings."""

from pathlib import Path

import pytest

from ridges.contracts.limits import MIB
from ridges.sandbox_manager.capacity import Capacity, FreeSpace, Machine, capacity_of, this_machine
from ridges.sandbox_manager.errors import SandboxUnavailable
from ridges.sandbox_manager.settings import ManagerSettings

GIB = 1024 * MIB


def capacity(cores: float, memory_gib: float, **chosen) -> Capacity:
    settings = ManagerSettings(run_token_key="5a" * 32, state_dir=Path("/s"), blobs_url="file:///b", **chosen)
    return capacity_of(Machine(cores=cores, memory_bytes=int(memory_gib * GIB)), settings)


@pytest.mark.parametrize(
    ("cores", "memory_gib", "slots", "evaluation_slots"),
    [(2, 24, 4, 2), (16, 256, 32, 16), (16, 16, 3, 3), (0.5, 1, 1, 1), (1, 8, 2, 1), (64, 16, 3, 3)],
)
def test_cores_and_memory_decide_where_the_settings_do_not(cores, memory_gib, slots, evaluation_slots):
    found = capacity(cores, memory_gib)
    assert (found.slots, found.evaluation_slots) == (slots, evaluation_slots)
    assert found.slots == 1 or (found.slots + found.evaluation_slots) * 2 * GIB <= 0.8 * memory_gib * GIB


def test_evaluations_of_large_problems_have_a_share_of_a_large_machine():
    found = capacity(2, 256)
    assert found.evaluation_memory_bytes >= 50 * GIB
    assert found.memory_bytes + found.evaluation_memory_bytes <= 0.8 * 256 * GIB


def test_settings_win():
    found = capacity(2, 8, slots=50, evaluation_slots=7, memory_bytes=GIB)
    wanted = Capacity(slots=50, evaluation_slots=7, memory_bytes=GIB, evaluation_memory_bytes=14 * GIB)
    assert found == wanted
    assert capacity(2, 8, slots=50).memory_bytes == 50 * 2 * GIB


def test_this_machine_has_something_to_run_on():
    machine = this_machine()
    assert machine.cores > 0
    assert machine.memory_bytes > 64 * MIB


async def test_a_full_disk_is_told_with_what_helps(tmp_path):
    await FreeSpace([tmp_path, tmp_path / "not there yet"], 1).check()
    with pytest.raises(SandboxUnavailable, match=r"bytes left, .* must stay free; make room, or set RIDGES_MIN_FREE"):
        await FreeSpace([tmp_path], 1 << 60).check()
