import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

DAY_MINUTES = 24 * 60
RESERVED = {"rest", "standing", "vat", "total"}
NUMBER = re.compile(r"\d+(\.\d+)?")


class TariffError(ValueError):
    """The tariff cannot be read."""


class ReadingError(ValueError):
    """The readings cannot be read."""


@dataclass(frozen=True)
class Window:
    name: str
    minutes: frozenset[int]
    price: Fraction


@dataclass
class Tariff:
    single: dict[str, Decimal] = field(default_factory=dict)
    windows: list[Window] = field(default_factory=list)


@dataclass(frozen=True)
class Reading:
    at: datetime
    kwh: Fraction
    range_kwh: int


def _entries(text: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split("#")[0].split()
        if words:
            yield number, words


def _decimal(text: str) -> Decimal:
    if not NUMBER.fullmatch(text):
        raise ValueError(f"{text!r} is not a number")
    return Decimal(text)


def _minute(text: str, last: int) -> int:
    if not re.fullmatch(r"\d\d:\d\d", text):
        raise ValueError(f"{text!r} is not a time")
    hours, minutes = int(text[:2]), int(text[3:])
    if minutes > 59 or hours * 60 + minutes > last:
        raise ValueError(f"there is no time {text!r}")
    return hours * 60 + minutes


def _window(name: str, start_text: str, end_text: str, price: str, others: list[Window]) -> Window:
    start, end = _minute(start_text, DAY_MINUTES - 1), _minute(end_text, DAY_MINUTES)
    if start == end:
        raise ValueError("start and end are equal")
    length = (end - start) % DAY_MINUTES or DAY_MINUTES
    minutes = frozenset((start + offset) % DAY_MINUTES for offset in range(length))
    if name in RESERVED or any(other.name == name for other in others):
        raise ValueError(f"the name {name!r} is taken")
    for other in others:
        if other.minutes & minutes:
            raise ValueError(f"{name} and {other.name} are open at the same time")
    return Window(name, minutes, Fraction(_decimal(price)))


def parse_tariff(text: str) -> Tariff:
    tariff = Tariff()
    for number, words in _entries(text):
        try:
            match words:
                case ["window", name, start, end, price]:
                    tariff.windows.append(_window(name, start, end, price, tariff.windows))
                case ["rate" | "standing" | "vat" as key, value] if key not in tariff.single:
                    tariff.single[key] = _decimal(value)
                case _:
                    raise ValueError(f"cannot read {' '.join(words)!r}")
        except ValueError as error:
            raise TariffError(f"line {number}: {error}") from error
    if "rate" not in tariff.single:
        raise TariffError("no rate")
    return tariff


def parse_readings(text: str) -> list[Reading]:
    readings: list[Reading] = []
    shape: tuple[int, ...] = ()
    for number, words in _entries(text):
        try:
            date, time, shown = words
            if not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
                raise ValueError(f"{date!r} is not a date")
            at = datetime.fromisoformat(date) + timedelta(minutes=_minute(time, DAY_MINUTES - 1))
            reading = Reading(at, Fraction(_decimal(shown)), 10 ** len(shown.split(".")[0]))
            widths = tuple(map(len, shown.split(".")))
            shape = shape or widths
            if widths != shape:
                raise ValueError(f"{shown!r} has another number of digits")
            if readings and at <= readings[-1].at:
                raise ValueError("not later than the reading before")
            if readings and 2 * _used(readings[-1], reading) >= reading.range_kwh:
                raise ValueError("half of the meter's range or more was used")
        except ValueError as error:
            raise ReadingError(f"line {number}: {error}") from error
        readings.append(reading)
    if len(readings) < 2:
        raise ReadingError("there must be two readings or more")
    return readings


def _used(before: Reading, after: Reading) -> Fraction:
    return (after.kwh - before.kwh) % after.range_kwh


def _open_minutes(start: datetime, end: datetime, minutes: frozenset[int]) -> int:
    """How many minutes from start to end fall into minutes of the day at which a window is open."""
    first = start.hour * 60 + start.minute
    whole_days, rest = divmod((end - start) // timedelta(minutes=1), DAY_MINUTES)
    return whole_days * len(minutes) + sum((first + offset) % DAY_MINUTES in minutes for offset in range(rest))


def _half_up(value: Fraction) -> int:
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)


def _quantity(kwh: Fraction) -> Decimal:
    return Decimal(_half_up(kwh * 1000)).scaleb(-3)


def bill(tariff: Tariff, readings: list[Reading]) -> list[tuple[str, Decimal, int]]:
    taken = frozenset().union(*(window.minutes for window in tariff.windows))
    rest = Window("rest", frozenset(range(DAY_MINUTES)) - taken, Fraction(tariff.single["rate"]))
    lines, total_kwh = [], Fraction(0)
    for window in [*tariff.windows, rest]:
        kwh = Fraction(0)
        for before, after in pairwise(readings):
            share = Fraction(_open_minutes(before.at, after.at, window.minutes)) / (
                (after.at - before.at) // timedelta(minutes=1)
            )
            kwh += _used(before, after) * share
        total_kwh += kwh
        if kwh:
            lines.append((window.name, _quantity(kwh), _half_up(kwh * window.price)))
    if standing := tariff.single.get("standing"):
        last_minute = readings[-1].at - timedelta(minutes=1)
        days = (last_minute.date() - readings[0].at.date()).days + 1
        lines.append(("standing", Decimal(days), _half_up(days * Fraction(standing))))
    if vat := tariff.single.get("vat"):
        lines.append(("vat", vat, _half_up(sum(line[2] for line in lines) * Fraction(vat) / 100)))
    return [*lines, ("total", _quantity(total_kwh), sum(line[2] for line in lines))]


def render(lines: list[tuple[str, Decimal, int]]) -> str:
    return "\n".join(
        f"{name:<10}{quantity!s:>12}{f'{cents // 100}.{cents % 100:02}':>12}" for name, quantity, cents in lines
    )
