"""A time zone with summer time: last Sunday of March to last Sunday of October, both at 01:00 UTC."""

from datetime import datetime, timedelta, tzinfo

HOUR = timedelta(hours=1)


def _last_sunday(year: int, month: int) -> datetime:
    last_day = datetime(year, month, 31)
    return last_day - timedelta(days=(last_day.weekday() + 1) % 7)


class SeasonalZone(tzinfo):
    def __init__(self, name: str, standard_hours: int) -> None:
        self.name = name
        self._standard = timedelta(hours=standard_hours)

    def _summer(self, year: int) -> tuple[datetime, datetime]:
        """First and last moment of summer time as naive UTC."""
        return _last_sunday(year, 3) + HOUR, _last_sunday(year, 10) + HOUR

    def utcoffset(self, when: datetime | None) -> timedelta:
        return self._standard + self.dst(when)

    def dst(self, when: datetime | None) -> timedelta:
        if when is None:
            return timedelta(0)
        begins, ends = self._summer(when.year)
        wall = when.replace(tzinfo=None)
        shift = self._standard + (timedelta(0) if when.fold else HOUR)
        return HOUR if begins + shift <= wall < ends + shift else timedelta(0)

    def tzname(self, when: datetime | None) -> str:
        return f"{self.name} summer" if self.dst(when) else self.name

    def fromutc(self, when: datetime) -> datetime:
        moment = when.replace(tzinfo=None)
        begins, ends = self._summer(moment.year)
        offset = self._standard + (HOUR if begins <= moment < ends else timedelta(0))
        fold = int(ends <= moment < ends + HOUR)
        return (moment + offset).replace(tzinfo=self, fold=fold)

    def __repr__(self) -> str:
        return f"SeasonalZone({self.name!r})"
