from datetime import UTC, date, datetime, timedelta

import pytest

from roomcal import (
    Conflict,
    Interval,
    RoomCalendar,
    SeasonalZone,
    day_hours,
    invoice_quarters,
    utilisation,
    weekly,
)

ZONE = SeasonalZone("Middleland", standard_hours=1)
AUTUMN = date(2026, 10, 25)
SPRING = date(2026, 3, 29)


def autumn(hour: int, minute: int = 0, fold: int = 0) -> datetime:
    return datetime(2026, 10, 25, hour, minute, tzinfo=ZONE, fold=fold)


def spring(hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 3, 29, hour, minute, tzinfo=ZONE)


def as_utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


def wall(moment: datetime) -> tuple[int, int, int]:
    return moment.hour, moment.minute, moment.fold


@pytest.fixture
def room() -> RoomCalendar:
    return RoomCalendar("cellar", ZONE)


def test_booking_through_the_autumn_change_keeps_its_length(room):
    booking = room.book("Night choir", autumn(1, 30), minutes=120)
    assert as_utc(booking.interval.end) == datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
    assert wall(booking.interval.end.astimezone(ZONE)) == (2, 30, 1)
    assert booking.interval.duration == timedelta(minutes=120)


def test_booking_through_the_spring_change_keeps_its_length(room):
    booking = room.book("Night choir", spring(1, 30), minutes=60)
    assert wall(booking.interval.end.astimezone(ZONE)) == (3, 30, 0)
    assert booking.interval.duration == timedelta(minutes=60)


def test_interval_length_counts_the_repeated_hour():
    assert Interval(autumn(0), autumn(6)).duration == timedelta(hours=7)
    assert Interval(spring(0), spring(6)).duration == timedelta(hours=5)


def test_interval_may_end_earlier_on_the_wall_clock():
    assert Interval(autumn(2, 45), autumn(2, 15, fold=1)).duration == timedelta(minutes=30)


def test_same_wall_clock_in_both_hours_does_not_collide(room):
    room.book_interval("First", Interval(autumn(2), autumn(2, 45)))
    room.book_interval("Second", Interval(autumn(2, fold=1), autumn(2, 45, fold=1)))
    room.book("Early", autumn(1), minutes=60)
    assert [booking.title for booking in room] == ["Early", "First", "Second"]


def test_long_booking_collides_with_the_second_hour(room):
    room.book("Long", autumn(1), minutes=135)
    with pytest.raises(Conflict):
        room.book("Inside", autumn(2, 10, fold=1), minutes=15)
    room.book("After", autumn(2, 15, fold=1), minutes=15)


def test_contains_tells_the_two_hours_apart():
    second = Interval(autumn(2, fold=1), autumn(3))
    assert second.contains(autumn(2, 30, fold=1))
    assert not second.contains(autumn(2, 30))


def test_bookings_are_listed_in_the_order_they_happen(room):
    room.book_interval("Second", Interval(autumn(2, 0, fold=1), autumn(2, 30, fold=1)))
    room.book_interval("First", Interval(autumn(2, 15), autumn(2, 45)))
    assert [booking.title for booking in room] == ["First", "Second"]


def test_gap_between_the_two_hours_is_offered(room):
    room.book("First", autumn(0), minutes=165)
    room.book("Second", autumn(2, 15, fold=1), minutes=60)
    gaps = [(as_utc(gap.start), as_utc(gap.end)) for gap in room.free(AUTUMN)]
    assert gaps[0] == (as_utc(autumn(2, 45)), as_utc(autumn(2, 15, fold=1)))
    assert gaps[1] == (as_utc(autumn(3, 15)), as_utc(room.day(AUTUMN).end))
    assert len(gaps) == 2


@pytest.mark.parametrize(
    ("day", "hours"),
    [(AUTUMN, 25), (SPRING, 23), (date(2026, 1, 7), 24)],
    ids=["autumn", "spring", "winter"],
)
def test_length_of_the_day(room, day, hours):
    assert day_hours(room, day) == hours


def test_fully_booked_short_day_is_full(room):
    whole = room.day(SPRING)
    room.book_interval("All day", whole)
    assert utilisation(room, SPRING) == 1.0
    room.book("Half of the long day", autumn(0), minutes=750)
    assert utilisation(room, AUTUMN) == 0.5


def test_night_is_invoiced_by_the_hours_it_had(room):
    room.book_interval("Choir", Interval(autumn(0), autumn(4)))
    room.book_interval("Band", Interval(spring(0), spring(4)))
    assert invoice_quarters(room, "Choir") == 5 * 4
    assert invoice_quarters(room, "Band") == 3 * 4


def test_weekly_booking_keeps_its_wall_clock_time(room):
    starts = list(weekly(datetime(2026, 10, 18, 9, tzinfo=ZONE), weeks=3))
    for start in starts:
        room.book("Cleaning", start, minutes=60)
    assert [(start.day, start.hour) for start in starts] == [(18, 9), (25, 9), (1, 9)]
    assert [as_utc(booking.interval.start).hour for booking in room] == [7, 8, 8]
