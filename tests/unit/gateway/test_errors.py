"""What callers are told: documented, and readable by programs."""

import re
from pathlib import Path

import pytest

from ridges.gateway import errors
from ridges.gateway.replies import error_body

TABLE = (Path(__file__).parents[3] / "services/gateway/ERRORS.md").read_text()
KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.GatewayError) and kind is not errors.GatewayError
]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not errors.CallerGone], ids=lambda kind: kind.code)
def test_every_error_is_in_the_table(kind):
    status = "any" if kind is errors.ProviderFailed else str(kind.status)
    assert re.search(rf"^\| {status} \| `{kind.code}` \|", TABLE, re.MULTILINE)


REACHED = [
    (errors.CostLimitReached("r", 1_000_000_000, 999_000_001), "1.00", "0.999000001"),
    (errors.RequestLimitReached("r", 5, 5), 5, 5),
    (errors.TokenLimitReached("r", 100, 120), 100, 120),
    (errors.TooManyCalls("r", 4), 4, 4),
    (errors.RateLimitReached("r", 60, 3.2), 60, 60),
]


@pytest.mark.parametrize(("error", "limit", "current"), REACHED, ids=lambda value: getattr(value, "code", None))
def test_programs_read_the_limit_and_what_is_used_of_it(error, limit, current):
    told = error_body("/v1/chat/completions", error.status, error.detail, error.detail, error.code, error.amounts)
    assert (told["error"]["code"], told["error"]["limit"], told["error"]["current"]) == (error.code, limit, current)
    assert error_body("/api/inference", error.status, error.detail, "", "", error.amounts) == {"detail": error.detail}
