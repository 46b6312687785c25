"""The bookings of one room."""

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, tzinfo

from roomcal.interval import Interval


class Conflict(Exception):
    """The room is taken; `other` is the booking that is in the way."""

    def __init__(self, other: "Booking") -> None:
        super().__init__(f"the room is taken by {other.title!r} until {other.interval.end:%H:%M}")
        self.other = other


@dataclass(frozen=True)
class Booking:
    title: str
    interval: Interval


class RoomCalendar:
    def __init__(self, name: str, zone: tzinfo) -> None:
        self.name = name
        self.zone = zone
        self._bookings: list[Booking] = []

    def __iter__(self) -> Iterator[Booking]:
        return iter(self._bookings)

    def book(self, title: str, start: datetime, minutes: int) -> Booking:
        """Book the room for so many minutes; raises Conflict when it is taken."""
        return self.book_interval(title, Interval(start, start + timedelta(minutes=minutes)))

    def book_interval(self, title: str, interval: Interval) -> Booking:
        for other in self._bookings:
            if other.interval.overlaps(interval):
                raise Conflict(other)
        booking = Booking(title, interval)
        insort(self._bookings, booking, key=lambda item: item.interval.start)
        return booking

    def cancel(self, booking: Booking) -> None:
        self._bookings.remove(booking)

    def day(self, day: date) -> Interval:
        """From midnight to midnight on the room's own clock."""
        midnight = datetime.combine(day, time(), tzinfo=self.zone)
        return Interval(midnight, midnight + timedelta(days=1))

    def used(self, day: date) -> list[Interval]:
        """The booked parts of a day, in order."""
        whole = self.day(day)
        parts = (booking.interval.clipped_to(whole) for booking in self._bookings)
        return [part for part in parts if part is not None]

    def free(self, day: date) -> list[Interval]:
        """The parts of a day that nobody has booked, in order."""
        whole = self.day(day)
        gaps, cursor = [], whole.start
        for part in self.used(day):
            if cursor < part.start:
                gaps.append(Interval(cursor, part.start))
            cursor = part.end
        if cursor < whole.end:
            gaps.append(Interval(cursor, whole.end))
        return gaps
