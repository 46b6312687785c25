"""SIGHUP: ridges.toml is read again. A file that cannot be used is refused and the old one stays."""

import asyncio
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import structlog

from ridges.gateway.meters import Meters
from ridges.gateway.providers_config import ConfigError, load_providers
from ridges.gateway.roster import MakeAdapter, Roster

log = structlog.get_logger(__name__)


class Reloading:
    """Exchanges the roster's providers. Calls in flight are not touched."""

    def __init__(
        self,
        path: Path,
        roster: Roster,
        make: MakeAdapter,
        meters: Meters,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._path, self._roster, self._make, self._meters, self._environ = path, roster, make, meters, environ

    def reload(self) -> bool:
        """Whether the file was taken."""
        try:
            config = load_providers(self._path, self._environ)
            self._roster.replace(config, self._make)
        except ConfigError as error:
            log.error("ridges.toml is refused; the providers stay as they were", error=str(error))  # noqa: TRY400
            self._meters.reloaded("refused")
            return False
        log.info("ridges.toml is taken", providers=[provider.name for provider in config.providers])
        self._meters.reloaded("taken")
        return True

    async def on_sighup(self) -> None:
        """Reload at every SIGHUP until cancelled."""
        asked = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked.set)
        while True:
            await asked.wait()
            asked.clear()
            self.reload()
