"""Ends of live logs on disk: bounded, found again, forgotten."""

import os
import time

from ridges.sandbox_manager.attempt_logs import MOST_AGE_S, MOST_BYTES, AttemptLogs

RUN, OTHER = "0191e0a0-0000-7000-8000-000000000001", "0191e0a0-0000-7000-8000-000000000002"


def test_the_end_of_a_log_is_found_by_the_next_manager_in_the_same_folder(tmp_path):
    log = AttemptLogs(tmp_path / "logs").of(RUN, 2)
    log.add(0, b"one ")
    log.add(4, b"two")
    again = AttemptLogs(tmp_path / "logs")
    assert (again.found(RUN, 2), again.found(RUN, 1), again.found(OTHER, 2)) == (b"one two", b"", b"")


def test_a_log_without_end_takes_little_room_and_its_end_is_kept(tmp_path):
    logs = AttemptLogs(tmp_path)
    log = logs.of(RUN, 1)
    for number in range(2000):
        log.add(0, f"{number:>511}\n".encode())
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2 * MOST_BYTES + 512
    found = logs.found(RUN, 1)
    assert (len(found), found.endswith(b"1999\n")) == (MOST_BYTES, True)


def test_what_was_told_is_forgotten_and_nothing_else(tmp_path):
    logs = AttemptLogs(tmp_path)
    for run_id, attempt in ((RUN, 1), (RUN, 2), (OTHER, 1)):
        logs.of(run_id, attempt).add(0, b"x")
    logs.forget(RUN)
    assert [path.name for path in tmp_path.iterdir()] == [f"{OTHER}.1"]


def test_what_nobody_came_back_for_is_forgotten_after_a_week(tmp_path):
    logs = AttemptLogs(tmp_path)
    for run_id in (RUN, OTHER):
        logs.of(run_id, 1).add(0, b"x")
    old = time.time() - MOST_AGE_S - 60
    os.utime(tmp_path / f"{RUN}.1", (old, old))
    logs.forget_old()
    assert [path.name for path in tmp_path.iterdir()] == [f"{OTHER}.1"]


def test_a_folder_that_went_away_costs_the_copy_and_nothing_else(tmp_path):
    logs = AttemptLogs(tmp_path / "logs")
    log = logs.of(RUN, 1)
    (tmp_path / "logs").rmdir()
    log.add(0, b"x")
    assert logs.found(RUN, 1) == b""
