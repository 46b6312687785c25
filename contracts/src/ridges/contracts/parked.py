"""What a queue gave up on: kept in the stream PARKED until a person has looked at it."""

from datetime import datetime

import msgspec


class Parked(msgspec.Struct, frozen=True, kw_only=True):
    """A message that a queue gave up on."""

    queue: str
    position: int
    """Of the message in the log, where it stays."""
    subject: str
    error: str
    deliveries: int
    parked_at: datetime
    content: str
    """The message as text (undecodable bytes replaced), at most 65,536 characters."""
