"""What a provider's answer says: usage, error texts, and the failure that the caller is told of it. Pure."""

import msgspec

from ridges.gateway.calls import UNREADABLE
from ridges.gateway.errors import ProviderFailed
from ridges.gateway.ports import ProviderReply
from ridges.gateway.roster import Offer

FAILOVER = frozenset({401, 402, 403, 404, 408, 425, 429})
"""Answers (besides 5xx) that speak of this provider, not of the request: another one may do better."""
REFUSES_US = frozenset({401, 402, 403, 408})
TEXT_CHARS = 2_000


class StreamCut(Exception):
    """A stream broke after its first event: the caller has seen a part of it."""

    def __init__(self, failure: ProviderFailed) -> None:
        super().__init__(failure.detail)
        self.failure = failure


class AskAnother(Exception):
    """The attempt failed, another provider may be asked."""

    def __init__(self, failure: ProviderFailed) -> None:
        super().__init__(failure.detail)
        self.failure = failure


class _ErrorObject(msgspec.Struct):
    message: str


class _ErrorBody(msgspec.Struct):
    error: _ErrorObject


def error_text(body: bytes) -> str | None:
    """The message of an OpenAI-style error. Some providers put one into a 200."""
    try:
        return msgspec.json.decode(body, type=_ErrorBody).error.message[:TEXT_CHARS]
    except UNREADABLE:
        return None


def text_of(body: bytes) -> str:
    """The message of an OpenAI-style error, else the text itself."""
    text = error_text(body) or body[: 4 * TEXT_CHARS].decode(errors="replace")
    return text[:TEXT_CHARS].strip() or "(no text)"


def failure_of(offer: Offer, status: int, what: str, code: object, text: object) -> ProviderFailed:
    """What the caller is told when nobody does better. Source: agent contract (provider, model, code, text)."""
    detail = f"The provider {offer.provider.name} {what} for the model {offer.model.name} (code: {code}): {text}"
    return ProviderFailed(status, detail)


def refusal_of(offer: Offer, reply: ProviderReply, text: str) -> AskAnother | ProviderFailed:
    """For an answer that is not 200: ``AskAnother`` when another provider may do better, else final."""
    status = reply.status if reply.status >= 400 else 502
    told = failure_of(offer, status, "answered with an error", reply.status, text)
    failure = ProviderFailed(status, told.detail, reply.retry_after_s)
    return AskAnother(failure) if status >= 500 or status in FAILOVER else failure
