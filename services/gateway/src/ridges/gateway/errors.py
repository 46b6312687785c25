"""Every way in which a call can be refused or fail, with the status and the text that the caller gets.

Texts marked ``Source: agent contract`` are read by existing agents: not a character may change. Agents stop for good
at 402, 403 or 429 when the text speaks of a cost or a budget, and try again otherwise: so the concurrency text speaks
of neither.
"""

import math
from decimal import Decimal
from typing import ClassVar, Literal

from ridges.contracts.money import usd_text

RefusalReason = Literal["cost", "requests", "tokens", "concurrency", "model", "identity", "state", "price"]
Kind = Literal["chat", "embedding"]

STOP_RETRYING = {"x-should-retry": "false"}
"""The OpenAI packages obey this header; without it they repeat every 429."""


class GatewayError(Exception):
    """What a route answers instead of a reply."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    """Stable word for programs, in the error object of the OpenAI surface."""
    reason: ClassVar[RefusalReason | None] = None
    """Set when the refusal is recorded as InferenceRefused."""

    def __init__(
        self, detail: str, *, headers: dict[str, str] | None = None, amounts: dict[str, int | str] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = headers or {}
        self.amounts = amounts or {}
        """``limit`` and ``current`` of a limit that is reached, for programs: counts, or USD as exact text."""


class InternalError(GatewayError):
    def __init__(self) -> None:
        super().__init__("The gateway failed; its log says more. Try again.")


class NoRunToken(GatewayError):
    status, code = 401, "no_run_token"

    def __init__(self, why: str) -> None:
        super().__init__(f"{why} Call the gateway from inside a run: its sandbox proxy adds the run token.")


class BodyInvalid(GatewayError):
    """The body does not fit the schema. ``problems`` has the form of FastAPI's 422 details. Source: agent contract."""

    status, code = 422, "invalid_body"

    def __init__(self, where: tuple[str | int, ...], message: str) -> None:
        super().__init__(f"{'.'.join(map(str, where))}: {message}")
        self.problems = [{"type": "value_error", "loc": list(where), "msg": message}]


class BodyTooLarge(GatewayError):
    status, code = 413, "http_error"

    def __init__(self) -> None:
        super().__init__("The body is larger than 16 MiB.")


class MethodNotAllowed(GatewayError):
    status, code = 405, "http_error"

    def __init__(self) -> None:
        super().__init__("Method Not Allowed", headers={"Allow": "POST"})


class ToolRuleBroken(GatewayError):
    status, code = 422, "tool_rule"


class OtherRun(GatewayError):
    status, code, reason = 403, "other_run", "identity"

    def __init__(self, run_id: str, named: str) -> None:
        super().__init__(
            f"This sandbox belongs to the evaluation run with ID {run_id}; "
            f"it may not act for the evaluation run with ID {named}."
        )


class UnknownRun(GatewayError):
    """Source: agent contract."""

    status, code = 400, "unknown_run"

    def __init__(self, run_id: str) -> None:
        super().__init__(f"No evaluation run exists with the given evaluation run ID {run_id}.")


class RunNotRunning(GatewayError):
    """Source: agent contract."""

    status, code, reason = 400, "run_not_running", "state"

    def __init__(self, run_id: str, state: str) -> None:
        super().__init__(
            f"The evaluation run with ID {run_id} is not in the running_agent state (current state: {state})."
        )


class CostLimitReached(GatewayError):
    """Source: agent contract. A call whose prompt alone may cost more than what is left gets one more sentence."""

    status, code, reason = 429, "cost_limit", "cost"

    def __init__(self, run_id: str, limit_nano: int, current_nano: int, more: str = "") -> None:
        super().__init__(
            f"The evaluation run with ID {run_id} has reached or exceeded the evaluation run cost limit of "
            f"{usd_text(limit_nano)} USD (current cost: {usd_text(current_nano)} USD).{more}",
            headers=STOP_RETRYING,
            amounts={"limit": usd_text(limit_nano), "current": usd_text(current_nano)},
        )


class RequestLimitReached(GatewayError):
    status, code, reason = 429, "request_limit", "requests"

    def __init__(self, run_id: str, limit: int, current: int) -> None:
        super().__init__(
            f"The evaluation run with ID {run_id} has reached its budget of {limit} requests (current: {current}).",
            headers=STOP_RETRYING,
            amounts={"limit": limit, "current": current},
        )


class TokenLimitReached(GatewayError):
    status, code, reason = 429, "token_limit", "tokens"

    def __init__(self, run_id: str, limit: int, current: int, more: str = "") -> None:
        super().__init__(
            f"The evaluation run with ID {run_id} has reached its budget of {limit} tokens (current: {current}).{more}",
            headers=STOP_RETRYING,
            amounts={"limit": limit, "current": current},
        )


class TooManyCalls(GatewayError):
    status, code, reason = 429, "concurrency_limit", "concurrency"

    def __init__(self, run_id: str, limit: int) -> None:
        super().__init__(
            f"The evaluation run with ID {run_id} already has {limit} model calls in flight, the most it may have. "
            "Try again when one of them has ended.",
            headers={"Retry-After": "1"},
            amounts={"limit": limit, "current": limit},
        )


class RateLimitReached(GatewayError):
    """The text speaks of neither cost nor budget: waiting helps."""

    status, code, reason = 429, "rate_limit", "requests"

    def __init__(self, run_id: str, limit: int, wait_s: float) -> None:
        wait = whole_seconds(wait_s)
        super().__init__(
            f"The evaluation run with ID {run_id} has begun {limit} model calls within a minute, the most it may. "
            f"Try again in {wait} s.",
            headers={"Retry-After": wait},
            amounts={"limit": limit, "current": limit},
        )


class KeyReused(GatewayError):
    status, code = 422, "idempotency_key_reused"

    def __init__(self, key: str) -> None:
        super().__init__(
            f"The Idempotency-Key {key!r} stands for another request of this run already. Use a new key for a new "
            "request, and the very same body to ask for the same answer again."
        )


class ReplyNotKept(GatewayError):
    status, code = 409, "reply_not_kept"

    def __init__(self, key: str) -> None:
        super().__init__(
            f"The call under the Idempotency-Key {key!r} was answered and charged, but this gateway keeps no contents "
            "(RIDGES_CONTENTS=none) or has lost them, so it cannot give the answer again. Use a new key to ask anew."
        )


class StillInFlight(GatewayError):
    status, code = 409, "call_in_flight"

    def __init__(self, key: str) -> None:
        super().__init__(
            f"The call under the Idempotency-Key {key!r} is in flight at another gateway, or has just failed there. "
            "Try again with the same key.",
            headers={"Retry-After": "5"},
        )


class ModelNotSupported(GatewayError):
    """Source: agent contract."""

    status, code, reason = 404, "model_not_found", "model"

    def __init__(self, model: str, kind: Kind) -> None:
        purpose = "inference" if kind == "chat" else "embedding"
        super().__init__(f"The model {model} is not supported by Ridges for {purpose}.")


class FieldForbidden(GatewayError):
    status, code = 422, "field_forbidden"

    def __init__(self, field: str, model: str) -> None:
        super().__init__(
            f"No provider of the model {model} here may be sent the field {field} (forbidden_fields in ridges.toml). "
            "Leave it out."
        )


class Unpriced(GatewayError):
    """What would be charged by something else than tokens, so that a budget could not hold."""

    status, code, reason = 422, "unpriced", "price"

    def __init__(self, asked: str, model: str) -> None:
        super().__init__(
            f"{asked} asks for something that no price of the model {model} covers (another model, a dearer token, or "
            f"a charge beside tokens). No provider was asked and nothing is charged. Leave it out, or have it allowed "
            f'by name for a provider in ridges.toml: allow_unpriced = ["{asked}"].'
        )


class ProviderFailed(GatewayError):
    """No provider answered. The status is the last provider's 4xx/5xx, else 502, 503 or 504. Source: agent contract."""

    code = "provider_failed"

    def __init__(self, status: int, detail: str, retry_after_s: float | None = None) -> None:
        headers = {} if retry_after_s is None else {"Retry-After": whole_seconds(retry_after_s)}
        super().__init__(detail, headers=headers)
        self.status = status  # type: ignore[misc]  # of the instance, where every other error has it by class


class LogUnavailable(GatewayError):
    status, code = 503, "log_unavailable"

    def __init__(self) -> None:
        super().__init__(
            "The event log does not answer, so this call cannot be accounted for and is not made. Try again.",
            headers={"Retry-After": "5"},
        )


class ShuttingDown(GatewayError):
    status, code = 503, "shutting_down"

    def __init__(self) -> None:
        super().__init__("This gateway is shutting down. Try again.", headers={"Retry-After": "2"})


class CallerGone(GatewayError):
    """Nobody reads this answer; the status stands in the event."""

    status, code = 499, "caller_gone"

    def __init__(self) -> None:
        super().__init__("the caller closed the connection")


def whole_seconds(seconds: float) -> str:
    """For Retry-After: rounded up, at least 1."""
    return str(max(1, math.ceil(seconds)))


def plain_number(nano: int) -> float:
    """USD as the JSON number that the contract asks for."""
    return float(Decimal(nano).scaleb(-9))
