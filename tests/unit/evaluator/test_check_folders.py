"""Problem folders are looked at without a log: what can be used, and why the rest cannot."""

import json

from ridges.evaluator import check_folders


def look_at(capsysbinary, monkeypatch, *folders):
    monkeypatch.setattr("sys.argv", ["check_folders", *map(str, folders)])
    code = check_folders.main()
    out = capsysbinary.readouterr().out
    return code, json.loads(out) if out else None


def make_problem(folder):
    folder.mkdir(parents=True)
    (folder / "instructions.md").write_text("# Add\n\nAdd two numbers.\n")
    (folder / "main.py").write_text("def add(a, b): ...\n")
    (folder / "solution.py").write_text("def add(a, b): return a + b\n")
    (folder / "tests.py").write_text("from main import add\n\ndef test_add():\n    assert add(1, 2) == 3\n")


def test_usable_and_broken_folders_are_told(tmp_path, capsysbinary, monkeypatch):
    make_problem(tmp_path / "a" / "create-add")
    (tmp_path / "a" / "create-nothing").mkdir()
    make_problem(tmp_path / "b" / "create-add")
    code, looked = look_at(capsysbinary, monkeypatch, tmp_path / "a", tmp_path / "b", tmp_path / "nowhere")
    assert (code, looked["problems"]) == (0, ["create-add"])
    reasons = {broken["folder"]: " ".join(broken["reasons"]) for broken in looked["broken"]}
    assert set(reasons) == {str(tmp_path / name) for name in ("a/create-nothing", "b/create-add", "nowhere")}
    assert "same id" in reasons[str(tmp_path / "b/create-add")]
    assert "no such folder" in reasons[str(tmp_path / "nowhere")]


def test_without_a_folder_it_says_how_it_is_used(capsysbinary, monkeypatch):
    assert look_at(capsysbinary, monkeypatch) == (2, None)
