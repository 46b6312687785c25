"""What attempts have so far, on disk: bounded, found again, forgotten."""

import os
import time

from ridges.contracts.events import ExitFacts
from ridges.sandbox_manager.attempt_copies import MOST_AGE_S, MOST_LOG_BYTES, AttemptCopies

RUN, OTHER = "0191e0a0-0000-7000-8000-000000000001", "0191e0a0-0000-7000-8000-000000000002"


def test_log_and_patch_are_found_by_the_next_manager_in_the_same_folder(tmp_path):
    copy = AttemptCopies(tmp_path / "logs").new(RUN, 2)
    copy.add_to_log(0, b"one ")
    copy.add_to_log(4, b"two")
    copy.keep_patch(b"first")
    copy.keep_patch(b"second")
    copy.keep_exit(ExitFacts(exit_code=None, wall_s=5.0))
    copy.keep_exit(ExitFacts(exit_code=None, wall_s=9.5, cpu_s=0.5))
    again = AttemptCopies(tmp_path / "logs")
    assert [again.of(*which).log for which in ((RUN, 2), (RUN, 1), (OTHER, 2))] == [b"one two", b"", b""]
    assert [again.of(*which).patch for which in ((RUN, 2), (RUN, 1), (OTHER, 2))] == [b"second", b"", b""]
    facts = ExitFacts(exit_code=None, wall_s=9.5, cpu_s=0.5)
    assert [again.of(*which).exit for which in ((RUN, 2), (RUN, 1), (OTHER, 2))] == [facts, None, None]


def test_a_log_without_end_takes_little_room_and_its_end_is_kept(tmp_path):
    copy = AttemptCopies(tmp_path).new(RUN, 1)
    for number in range(2000):
        copy.add_to_log(0, f"{number:>511}\n".encode())
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2 * MOST_LOG_BYTES + 512
    assert (len(copy.log), copy.log.endswith(b"1999\n")) == (MOST_LOG_BYTES, True)


def test_what_was_told_is_forgotten_and_nothing_else(tmp_path):
    copies = AttemptCopies(tmp_path)
    for run_id, attempt in ((RUN, 1), (RUN, 2), (OTHER, 1)):
        copies.new(run_id, attempt).add_to_log(0, b"x")
        copies.of(run_id, attempt).keep_patch(b"x")
        copies.of(run_id, attempt).keep_exit(ExitFacts(exit_code=None))
    copies.forget(RUN)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{OTHER}.1", f"{OTHER}.1.exit", f"{OTHER}.1.patch"]
    copies.new(OTHER, 1)
    assert list(tmp_path.iterdir()) == []


def test_what_nobody_came_back_for_is_forgotten_after_a_week(tmp_path):
    copies = AttemptCopies(tmp_path)
    for run_id in (RUN, OTHER):
        copies.new(run_id, 1).add_to_log(0, b"x")
    old = time.time() - MOST_AGE_S - 60
    os.utime(tmp_path / f"{RUN}.1", (old, old))
    copies.forget_old()
    assert [path.name for path in tmp_path.iterdir()] == [f"{OTHER}.1"]


def test_a_folder_that_went_away_costs_the_copy_and_nothing_else(tmp_path):
    copy = AttemptCopies(tmp_path / "logs").new(RUN, 1)
    (tmp_path / "logs").rmdir()
    copy.add_to_log(0, b"x")
    copy.keep_patch(b"x")
    copy.keep_exit(ExitFacts(exit_code=None))
    assert (copy.log, copy.patch, copy.exit) == (b"", b"", None)
