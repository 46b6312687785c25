"""Three real nats-servers that are one JetStream cluster, on free ports of 127.0.0.1."""

import asyncio
import json
from contextlib import suppress

from nats.errors import Error as NatsError
from nats_process import NatsServer, free_port

SIZE = 3
PATIENCE_S = 30


class NatsCluster:
    """Starts and kills its servers; each keeps its ports and its store."""

    def __init__(self, folder):
        ports = [free_port() for _ in range(SIZE)]
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
        self.servers = [
            NatsServer(
                folder / f"n{number}",
                claims="64GB",
                extra=f'server_name: n{number}\ncluster {{ name: c, listen: "127.0.0.1:{port}", routes: [{routes}] }}',
            )
            for number, port in enumerate(ports)
        ]

    def start(self):
        for server in self.servers:
            server.start()
        return self

    def kill9(self):
        for server in self.servers:
            server.kill9()

    async def ready(self):
        """Once the servers agree on who leads."""
        await self._until("$JS.API.STREAM.NAMES", lambda answer: "error" not in answer)

    async def leader(self, stream="EVENTS"):
        """The server that leads a stream, once there is one."""
        found = await self._until(f"$JS.API.STREAM.INFO.{stream}", lambda a: (a.get("cluster") or {}).get("leader"))
        return self.servers[int(found["cluster"]["leader"].removeprefix("n"))]

    async def followers(self, stream="EVENTS"):
        """The others."""
        leader = await self.leader(stream)
        return [server for server in self.servers if server is not leader]

    async def holds(self, count):
        """Once the log has so many events."""
        await self._until("$JS.API.STREAM.INFO.EVENTS", lambda a: a.get("state", {}).get("last_seq", 0) >= count)

    async def complete(self, stream, replicas):
        """Once so many servers hold the stream, all of them whole."""

        def whole(answer):
            others = (answer.get("cluster") or {}).get("replicas") or []
            return len(others) == replicas - 1 and all(o.get("current") and not o.get("offline") for o in others)

        await self._until(f"$JS.API.STREAM.INFO.{stream}", whole)

    async def _until(self, subject, is_so):
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for server in self.servers:
                    if server.running:
                        with suppress(NatsError, OSError, TimeoutError):
                            async with server.client(allow_reconnect=False) as nc:
                                answer = json.loads((await nc.request(subject, b"", timeout=0.5)).data)
                                if is_so(answer):
                                    return answer
                await asyncio.sleep(0.02)
