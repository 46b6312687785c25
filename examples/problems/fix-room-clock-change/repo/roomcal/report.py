"""What a day was worth: hours, use, invoice."""

from collections.abc import Iterable
from datetime import date, timedelta
from math import ceil

from roomcal.rooms import Booking, RoomCalendar

QUARTER = timedelta(minutes=15)


def day_hours(room: RoomCalendar, day: date) -> float:
    whole = room.day(day)
    return (whole.end - whole.start) / timedelta(hours=1)


def utilisation(room: RoomCalendar, day: date) -> float:
    """Booked part of the day, from 0.0 to 1.0."""
    booked = sum((part.duration for part in room.used(day)), timedelta(0))
    return booked / timedelta(days=1)


def invoice_quarters(bookings: Iterable[Booking], title: str) -> int:
    """Quarter hours to bill for all bookings of that title; each booking is rounded up."""
    total = 0
    for booking in bookings:
        if booking.title == title:
            span = booking.interval
            total += ceil((span.end - span.start) / QUARTER)
    return total
