"""The run token cannot be made, moved to another run, or bent without the key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridges.contracts.run_token import RunTokenError, sign_run_token, verify_run_token

KEY = bytes(range(32))


@given(st.uuids().map(str))
def test_a_token_gives_back_its_run(run_id):
    assert verify_run_token(sign_run_token(run_id, KEY), KEY) == run_id


@given(st.text(max_size=120))
def test_no_other_text_is_a_token(text):
    with pytest.raises(RunTokenError):
        verify_run_token(text, KEY)


def test_a_token_of_another_key_or_run_is_refused():
    token = sign_run_token("run-a", KEY)
    mac = token.rpartition(".")[2]
    for bad in (
        sign_run_token("run-a", b"x" * 32),
        f"run-b.{mac}",
        token[:-1],
        token + "0",
        token.upper(),
        f".{mac}",
        "run-a.",
        "run-a.é",
    ):
        with pytest.raises(RunTokenError):
            verify_run_token(bad, KEY)


def test_the_error_does_not_repeat_the_token():
    with pytest.raises(RunTokenError) as caught:
        verify_run_token("run-a.secret", KEY)
    assert "secret" not in str(caught.value)
