"""Structured logs on stderr, one line an entry, UTC. ``run_id`` is a bound field: ``log.bind(run_id=…)``."""

import contextlib
import logging
import sys
from typing import Any, Literal, TextIO, cast

import structlog


def configure(service: str, format: Literal["json", "console"] = "json", level: str = "info") -> None:  # noqa: A002
    """Set up structlog and the standard library's logging for one process.

    Make apps as ``Litestar(logging_config=None)``, else Litestar sets up the standard library's logging anew.

    Raises:
        ValueError: no such level.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"{level!r} is no log level; use debug, info, warning or error")
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _Named(service),
    ]
    # plain tracebacks: the other kinds print local variables, and with them keys and prompts
    render: list[Any] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
        if format == "json"
        else [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    )
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        # not through logging, which frameworks set up anew
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Unfailing(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    logging.basicConfig(handlers=[handler], level=number, force=True)
    for noisy in ("uvicorn", "nats", "aiohttp"):
        logging.getLogger(noisy).setLevel(max(number, logging.WARNING))


class _Unfailing:
    """A stream whose full disk costs entries of the log, and not the work that they tell of."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


class _Named:
    def __init__(self, service: str) -> None:
        self._service = service

    def __call__(self, _logger: Any, _method: str, entry: dict[str, Any]) -> dict[str, Any]:
        entry.setdefault("service", self._service)
        return entry
