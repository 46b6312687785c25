from datetime import date, datetime, timedelta

import pytest

from roomcal import Conflict, Interval, IntervalError, RoomCalendar, SeasonalZone, invoice_quarters

ZONE = SeasonalZone("Middleland", standard_hours=1)
ISLAND = SeasonalZone("Island", standard_hours=0)
DAY = date(2026, 5, 6)


def at(hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 5, 6, hour, minute, tzinfo=ZONE)


@pytest.fixture
def room() -> RoomCalendar:
    return RoomCalendar("cellar", ZONE)


def test_back_to_back_bookings_fit(room):
    room.book("Second", at(11), minutes=60)
    room.book("First", at(10), minutes=60)
    room.book("Third", at(12), minutes=60)
    assert [booking.title for booking in room] == ["First", "Second", "Third"]


def test_overlap_is_refused_with_the_title_of_the_other(room):
    room.book("Lesson", at(10), minutes=60)
    with pytest.raises(Conflict, match="'Lesson' until 11:00"):
        room.book("Band", at(10, 59), minutes=5)


def test_end_before_start_is_refused(room):
    with pytest.raises(IntervalError):
        Interval(at(10), at(9))
    with pytest.raises(IntervalError):
        room.book("Nothing", at(10), minutes=0)


def test_free_intervals_of_a_day(room):
    room.book("Early", at(0), minutes=60)
    room.book("Noon", at(12), minutes=60)
    assert room.free(DAY) == [Interval(at(1), at(12)), Interval(at(13), at(0) + timedelta(days=1))]


def test_intervals_of_two_zones_are_compared_as_instants():
    here = Interval(at(10), at(11))
    there = Interval(datetime(2026, 5, 6, 9, tzinfo=ISLAND), datetime(2026, 5, 6, 10, tzinfo=ISLAND))
    assert here.overlaps(there)
    assert here.contains(there.start)
    assert not here.contains(there.end)


def test_cancelled_booking_frees_the_room(room):
    booking = room.book("Lesson", at(10), minutes=60)
    room.cancel(booking)
    room.book("Band", at(10), minutes=60)
    assert [item.title for item in room] == ["Band"]


def test_invoice_rounds_up_to_quarter_hours(room):
    room.book("Choir", at(10), minutes=61)
    room.book("Choir", at(12), minutes=15)
    assert invoice_quarters(room, "Choir") == 6
