"""A stand-in for a KurrentDB cluster: its real client talks real gRPC to it; the log is in memory.

Used where no KurrentDB can be had. ``conformance/kurrent_contract_suite.py`` asks both the same.
"""

from typing import Self
from uuid import uuid4

from kurrent_double.log import Expected, Log, Proposed, Stored
from kurrent_double.node import Node
from nats_process import free_port


class KurrentDouble:
    """``async with KurrentDouble(nodes=3) as kurrentdb: kurrentdb.url``"""

    def __init__(self, nodes: int = 1) -> None:
        self.log = Log()
        self.nodes = [Node(self.log, free_port(), lambda: self.nodes, lambda: self.leader) for _ in range(nodes)]
        self.leader = self.nodes[0]

    @property
    def url(self) -> str:
        """Of all nodes."""
        return f"kurrentdb://{','.join(f'127.0.0.1:{node.port}' for node in self.nodes)}?Tls=false"

    @property
    def url_of_one(self) -> str:
        """Of the first node only: the client does not look for the leader by itself then."""
        return f"kurrentdb://127.0.0.1:{self.nodes[0].port}?Tls=false"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_exc) -> None:
        await self.stop()

    async def start(self) -> None:
        for node in self.nodes:
            await node.start()

    async def stop(self) -> None:
        """All nodes at once. What they held only in memory is forgotten; the log is not."""
        for node in self.nodes:
            await node.stop()
        self.log.forget_recent()

    def elect(self, number: int) -> None:
        self.leader = self.nodes[number]
        self.log.forget_recent()

    async def put(self, stream: str, event_type: str, data: bytes = b"{}", event_id: str | None = None) -> Stored:
        """Append as some other client would."""
        proposed = Proposed(
            event_id=event_id or str(uuid4()), event_type=event_type, content_type="application/json", data=data
        )
        return await self.log.append(stream, Expected("any"), [proposed])
