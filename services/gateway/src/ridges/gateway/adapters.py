"""The adapter that a provider's table asks for."""

from ridges.chassis.clock import SystemClock
from ridges.gateway.openai_http import OpenAiHttp
from ridges.gateway.ports import ModelProvider
from ridges.gateway.providers_config import Provider
from ridges.gateway.recording import Recording
from ridges.gateway.replay import Replay


def make_adapter(provider: Provider) -> ModelProvider:
    """Needs a running event loop. Close it.

    Raises:
        ConfigError: recordings cannot be read or written.

    """
    if provider.kind == "replay":
        return Replay(provider)
    if provider.record:
        return Recording(provider, lambda: OpenAiHttp(provider), SystemClock())
    return OpenAiHttp(provider)
