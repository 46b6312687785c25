from datetime import date, datetime

from roomcal import RoomCalendar, SeasonalZone, day_hours, invoice_quarters, utilisation, weekly

ZONE = SeasonalZone("Middleland", standard_hours=1)


def test_utilisation_of_an_ordinary_day():
    room = RoomCalendar("cellar", ZONE)
    room.book("Rehearsal", datetime(2026, 6, 10, 10, tzinfo=ZONE), minutes=6 * 60)
    assert day_hours(room, date(2026, 6, 10)) == 24
    assert utilisation(room, date(2026, 6, 10)) == 0.25


def test_invoice():
    room = RoomCalendar("cellar", ZONE)
    room.book("Choir", datetime(2026, 6, 10, 10, tzinfo=ZONE), minutes=60)
    room.book("Band", datetime(2026, 6, 10, 12, tzinfo=ZONE), minutes=60)
    assert invoice_quarters(room, "Choir") == 4


def test_weekly():
    starts = list(weekly(datetime(2026, 6, 10, 9, tzinfo=ZONE), weeks=3))
    assert [start.day for start in starts] == [10, 17, 24]
    assert {start.hour for start in starts} == {9}
