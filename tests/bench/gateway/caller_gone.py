"""How soon a provider's connection is closed when the caller leaves, buffered and streamed; by the provider's clock.

python tests/bench/gateway/caller_gone.py [repeats]
"""

import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import httpx
from integration.gateway_world import MESSAGES, GatewayProcess, Log, MockProvider, mock_config
from nats_process import NatsServer


def leave(gateway, mock, run_id, *, streamed):
    """Milliseconds from leaving to the closed connection."""
    mock.lost.clear()
    body = {"model": "hang" if streamed else "slow-20", "messages": MESSAGES, "stream": streamed}
    with gateway.client(run_id) as client:
        if streamed:
            with client.stream("POST", "/v1/chat/completions", json=body) as reply:
                next(reply.iter_bytes())
                left_at = time.monotonic()
        else:
            with suppress(httpx.ReadTimeout):
                client.post("/v1/chat/completions", json=body, timeout=0.2)
            left_at = time.monotonic()
    assert mock.lost.wait(20)
    return (mock.lost_at - left_at) * 1000


def main(repeats=50):
    with tempfile.TemporaryDirectory() as folder:
        mock, nats = MockProvider(), NatsServer(Path(folder) / "nats").start()
        nats.migrate_now()
        log = Log(nats)
        gateway = GatewayProcess(Path(folder) / "gateway", nats, mock_config(mock.url, "slow 20", "hang")).start()
        try:
            run_id = log.new_run(max_cost_nano_usd=10**12)
            for streamed in (False, True):
                took = sorted(leave(gateway, mock, run_id, streamed=streamed) for _ in range(repeats))
                kind = "streamed" if streamed else "buffered"
                print(f"{kind}: median {took[repeats // 2]:.0f} ms, largest {took[-1]:.0f} ms of {repeats}")
        finally:
            gateway.stop()
            log.close()
            nats.kill9()
            mock.close()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
