"""The run token: the identity that the sandbox proxy attaches to every call of a sandbox.

``<run id>.<64 hex digits>``: HMAC-SHA256 over the run id with a key that only sandbox-manager and gateway hold.
The agent never sees it and cannot choose it.
"""

import hashlib
import hmac


class RunTokenError(ValueError):
    """The token was not made with our key."""


def sign_run_token(run_id: str, key: bytes) -> str:
    """The token for one run."""
    return f"{run_id}.{_mac(run_id, key)}"


def verify_run_token(token: str, key: bytes) -> str:
    """The run id in the token.

    Raises:
        RunTokenError: malformed, or signed with another key.

    """
    run_id, _, mac = token.rpartition(".")
    if not run_id or not hmac.compare_digest(mac.encode(), _mac(run_id, key).encode()):
        raise RunTokenError("the run token is not valid; model calls must come through the sandbox proxy of the run")
    return run_id


def _mac(run_id: str, key: bytes) -> str:
    return hmac.new(key, b"ridges-run-token:" + run_id.encode(), hashlib.sha256).hexdigest()
