"""Who calls: the run in the token that the sandbox proxy attached. Nothing in a body can change it."""

from uuid import UUID

from ridges.contracts.run_token import RunTokenError, verify_run_token
from ridges.gateway.errors import NoRunToken, OtherRun


class Identity:
    """Checks run tokens with the key that only sandbox-manager and gateway hold."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def run_of(self, authorization: str | None) -> str:
        """The run that calls, by the header.

        Raises:
            NoRunToken: 401.

        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise NoRunToken("The call has no run token.")
        try:
            return verify_run_token(token.strip(), self._key)
        except RunTokenError as error:
            raise NoRunToken(f"The call's token is refused: {error}.") from error


def same_run(run_id: str, named: UUID) -> None:
    """Raises OtherRun when a body names a run that is not the caller's."""
    if run_id.lower() != str(named):
        raise OtherRun(run_id, str(named))
