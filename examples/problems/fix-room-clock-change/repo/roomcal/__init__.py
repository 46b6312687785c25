from roomcal.interval import Interval, IntervalError
from roomcal.recurrence import daily, weekly
from roomcal.report import day_hours, invoice_quarters, utilisation
from roomcal.rooms import Booking, Conflict, RoomCalendar
from roomcal.zones import SeasonalZone

__all__ = [
    "Booking",
    "Conflict",
    "Interval",
    "IntervalError",
    "RoomCalendar",
    "SeasonalZone",
    "daily",
    "day_hours",
    "invoice_quarters",
    "utilisation",
    "weekly",
]
