from datetime import date, datetime, timedelta

import pytest

from roomcal import Conflict, Interval, IntervalError, RoomCalendar, SeasonalZone

ZONE = SeasonalZone("Middleland", standard_hours=1)


def at(hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 6, 10, hour, minute, tzinfo=ZONE)


def test_booking_has_its_length():
    room = RoomCalendar("cellar", ZONE)
    booking = room.book("Rehearsal", at(19), minutes=90)
    assert booking.interval == Interval(at(19), at(20, 30))
    assert booking.interval.duration == timedelta(minutes=90)


def test_double_booking_is_refused():
    room = RoomCalendar("cellar", ZONE)
    room.book("Rehearsal", at(19), minutes=90)
    with pytest.raises(Conflict):
        room.book("Lesson", at(20), minutes=60)


def test_free_time_of_an_empty_day_is_the_day():
    room = RoomCalendar("cellar", ZONE)
    assert room.free(date(2026, 6, 10)) == [room.day(date(2026, 6, 10))]


def test_interval_needs_a_zone():
    with pytest.raises(IntervalError):
        Interval(datetime(2026, 6, 10, 9), datetime(2026, 6, 10, 10))
