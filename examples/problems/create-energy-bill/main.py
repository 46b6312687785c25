class TariffError(ValueError):
    """The tariff cannot be read."""


class ReadingError(ValueError):
    """The readings cannot be read."""


def parse_tariff(text: str):
    raise NotImplementedError


def parse_readings(text: str) -> list:
    raise NotImplementedError


def bill(tariff, readings) -> list[tuple]:
    raise NotImplementedError


def render(lines: list[tuple]) -> str:
    raise NotImplementedError
