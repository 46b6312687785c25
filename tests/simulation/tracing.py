"""Log lines of the services with the virtual time and the life that wrote them."""

import asyncio

import structlog
from simulation.virtual_loop import LIFE


def trace() -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            _line,
        ],
        logger_factory=structlog.PrintLoggerFactory(),
        cache_logger_on_first_use=False,
    )


def _line(_logger, level: str, event: dict) -> str:
    life = LIFE.get()
    try:
        at = f"{asyncio.get_running_loop().time():9.3f}"
    except RuntimeError:
        at = " " * 9
    said = event.pop("event")
    trouble = event.pop("exception", "")
    fields = " ".join(f"{name}={value}" for name, value in event.items())
    return f"{at} {life.name if life else '-':12} {level:8} {said} {fields}" + (f"\n{trouble}" if trouble else "")
