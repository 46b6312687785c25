"""``python -m ridges.gateway.check_config PATH``: would the gateway start with this ridges.toml?"""

import asyncio
import sys
from pathlib import Path

from ridges.gateway.app import open_adapters
from ridges.gateway.providers_config import ConfigError, ProvidersConfig, load_providers

_EXIT_REFUSED = 2


async def check_config(path: Path) -> ProvidersConfig:
    """The configuration, once every provider was opened with it. No provider is asked anything.

    Raises:
        ConfigError: the gateway would refuse it; names the place in the file and what to write.

    """
    config = load_providers(path)
    async with open_adapters(config):
        return config


def main() -> int:
    """Prints one line. Exit code 2 with the reason on stderr when the file cannot be used."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m ridges.gateway.check_config PATH\n")
        return _EXIT_REFUSED
    try:
        config = asyncio.run(check_config(Path(sys.argv[1])))
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return _EXIT_REFUSED
    models = sum(len(provider.models) for provider in config.providers)
    sys.stdout.write(f"{_count(len(config.providers), 'provider')}, {_count(models, 'model')}\n")
    return 0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


if __name__ == "__main__":
    sys.exit(main())
