"""Connections to providers are tested on the event loop that services run on, too."""

import asyncio

import uvloop


def pytest_asyncio_loop_factories(item):
    """The loops that an async test runs on, by name."""
    if item.path.stem == "test_provider_connections":
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}
