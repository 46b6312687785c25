"""Repeated bookings: the same time on the wall clock, every day or every week."""

from collections.abc import Iterator
from datetime import datetime, timedelta


def daily(first: datetime, days: int) -> Iterator[datetime]:
    for number in range(days):
        yield first + timedelta(days=number)


def weekly(first: datetime, weeks: int) -> Iterator[datetime]:
    for number in range(weeks):
        yield first + timedelta(weeks=number)
