"""Half-open spans of time between two aware datetimes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta


class IntervalError(ValueError):
    """The two moments do not make an interval."""


@dataclass(frozen=True)
class Interval:
    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.start.tzinfo is None or self.end.tzinfo is None:
            raise IntervalError("start and end need a time zone")
        if self.end <= self.start:
            raise IntervalError("end must be after start")

    @property
    def duration(self) -> timedelta:
        return self.end - self.start

    def contains(self, moment: datetime) -> bool:
        return self.start <= moment < self.end

    def overlaps(self, other: Interval) -> bool:
        return self.start < other.end and other.start < self.end

    def clipped_to(self, other: Interval) -> Interval | None:
        """The part of this interval that lies in the other one."""
        if not self.overlaps(other):
            return None
        return Interval(max(self.start, other.start), min(self.end, other.end))
