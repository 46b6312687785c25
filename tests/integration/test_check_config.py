"""`python -m ridges.gateway.check_config`: one line, or the reason and exit code 2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
REPLAY = """\
[[provider]]
name = "replay"
kind = "replay"
{provider}
[[provider.model]]
name = "m"
kind = "embedding"
context = 8
{model}
"""
KEYED = """\
[[provider]]
name = "x"
kind = "openai"
base_url = "http://127.0.0.1:9/v1"
key_env = "NO_SUCH_KEY"
[[provider.model]]
name = "m"
context = 8
max_output = 8
input_usd = "0"
output_usd = "0"
"""
PRICE = 'input_usd = "1"'
REFUSED = {
    "no price": (REPLAY.format(provider="", model=""), "line 5: input_usd"),
    "an unknown key": (REPLAY.format(provider="prise = 1", model=PRICE), "line 4: prise"),
    "recordings that are none": (REPLAY.format(provider='recordings = ["bad.jsonl"]', model=PRICE), "bad.jsonl"),
    "a key that is not set": (KEYED, "NO_SUCH_KEY"),
}


def check(path, **environ):
    done = subprocess.run(
        [sys.executable, "-m", "ridges.gateway.check_config", *([str(path)] if path else [])],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": os.environ["PATH"]} | environ,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_configuration_of_the_repository_is_good():
    assert check(REPOSITORY / "ridges.toml") == (0, "1 provider, 2 models\n", "")


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_gateway_would_refuse_is_refused_with_one_line(tmp_path, case):
    text, word = REFUSED[case]
    (tmp_path / "ridges.toml").write_text(text)
    (tmp_path / "bad.jsonl").write_text("no recording\n")
    code, stdout, stderr = check(tmp_path / "ridges.toml")
    assert (code, stdout, stderr.count("\n")) == (2, "", 1), stderr
    assert word in stderr


def test_a_secret_is_not_told(tmp_path):
    (tmp_path / "ridges.toml").write_text(KEYED)
    assert check(tmp_path / "ridges.toml", NO_SUCH_KEY="sk-secret") == (0, "1 provider, 1 model\n", "")


def test_wrong_use():
    assert check(None)[0] == 2
    assert check("/nowhere/ridges.toml")[0] == 2
