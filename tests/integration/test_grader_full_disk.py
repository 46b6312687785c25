"""The grader's report, where the tests left no room for it. What is missing or damaged would count as forged."""

import shutil

from ridges.evaluator.inside import grade

REPORT = b"{" + b" " * 200_000 + b"}"


def test_a_report_has_room_on_a_disk_that_the_tests_filled(small_disk):
    sandbox = small_disk.path
    for folder in ("grading", "repo/deep"):
        (sandbox / folder).mkdir(parents=True)
    small_disk.fill()
    grade.write_report(sandbox, REPORT)
    assert (sandbox / "grading" / "report.json").read_bytes() == REPORT


def test_a_report_has_its_place_whatever_stands_there(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    sandbox = tmp_path / "sandbox"
    for spoil in (
        lambda: None,
        lambda: (sandbox / "grading").write_text("a file"),
        lambda: (sandbox / "grading").symlink_to(outside),
        lambda: (sandbox / "grading" / "report.json" / "x").mkdir(parents=True),
    ):
        sandbox.mkdir()
        spoil()
        grade.write_report(sandbox, REPORT)
        assert (sandbox / "grading" / "report.json").read_bytes() == REPORT
        shutil.rmtree(sandbox)
    assert list(outside.iterdir()) == []
