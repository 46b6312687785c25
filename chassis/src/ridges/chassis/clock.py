"""The real clock."""

import time
from datetime import UTC, datetime

from uuid_utils import uuid7


class SystemClock:
    """Wall clock in UTC, monotonic seconds, UUIDv7 ids."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def new_id(self) -> str:
        return str(uuid7())
