"""One node: the gRPC services Streams and Gossip on 127.0.0.1, as far as the adapter and the relay use them."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from uuid import UUID, uuid4

import grpc
import grpc.aio
from kurrent_double.log import MAX_APPEND_BYTES, Expected, Log, Proposed, Stored, TooLarge, WrongVersion
from kurrentdbclient.protos.v1 import gossip_pb2, gossip_pb2_grpc, shared_pb2, status_pb2, streams_pb2, streams_pb2_grpc

FAILED_PRECONDITION, INVALID_ARGUMENT = 9, 3
Options = streams_pb2.ReadReq.Options


class Node:
    """``start`` and ``stop`` as often as you like: the port stays. ``leader`` tells who leads now."""

    def __init__(self, log: Log, port: int, members: Callable[[], list["Node"]], leader: Callable[[], "Node"]) -> None:
        self.log, self.port, self.members, self.leader = log, port, members, leader
        self.faults: list[str] = []
        """Of the next appends: ``lost`` before it is stored, ``unacknowledged`` after, ``silent`` with no answer."""
        self.cut_reads_after: int | None = None
        """The next read breaks after so many events."""
        self.refused_appends = 0
        self._server: grpc.aio.Server | None = None

    @property
    def leads(self) -> bool:
        return self.leader() is self

    @property
    def running(self) -> bool:
        return self._server is not None

    async def start(self) -> None:
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        streams_pb2_grpc.add_StreamsServicer_to_server(Streams(self), server)
        gossip_pb2_grpc.add_GossipServicer_to_server(Gossip(self), server)
        server.add_insecure_port(f"127.0.0.1:{self.port}")
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """At once: calls in progress break."""
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(0)

    async def demand_leader(self, context: grpc.aio.ServicerContext) -> None:
        if dict(context.invocation_metadata()).get("requires-leader") == "true" and not self.leads:
            where = (
                ("exception", "not-leader"),
                ("leader-endpoint-host", "127.0.0.1"),
                ("leader-endpoint-port", str(self.leader().port)),
            )
            await context.abort(grpc.StatusCode.NOT_FOUND, "Leader info available", where)


class Gossip(gossip_pb2_grpc.GossipServicer):
    def __init__(self, node: Node) -> None:
        self._node = node

    async def Read(self, _request, _context):  # noqa: N802 - gRPC's name
        state = gossip_pb2.MemberInfo.VNodeState
        return gossip_pb2.ClusterInfo(
            members=[
                gossip_pb2.MemberInfo(
                    instance_id=shared_pb2.UUID(string=str(uuid4())),
                    state=state.Leader if member.leads else state.Follower,
                    is_alive=member.running,
                    http_end_point=gossip_pb2.EndPoint(address="127.0.0.1", port=member.port),
                )
                for member in self._node.members()
            ]
        )


class Streams(streams_pb2_grpc.StreamsServicer):
    def __init__(self, node: Node) -> None:
        self._node = node

    async def BatchAppend(self, requests, context):  # noqa: N802 - gRPC's name
        await self._node.demand_leader(context)
        parts: list = []
        async for request in requests:
            parts.append(request)
            if request.is_final:
                yield await self._append(parts, context)
                parts = []

    async def _append(self, parts: list, context: grpc.aio.ServicerContext) -> streams_pb2.BatchAppendResp:
        fault = self._node.faults.pop(0) if self._node.faults else ""
        if fault == "lost":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the node is stopping")
        answer = streams_pb2.BatchAppendResp(correlation_id=parts[0].correlation_id)
        options = parts[0].options
        proposed = [_proposed(message) for part in parts for message in part.proposed_messages]
        stream = options.stream_identifier.stream_name.decode()
        try:
            last = await self._node.log.append(stream, _expected(options), proposed)
        except (WrongVersion, TooLarge) as refusal:
            self._node.refused_appends += 1
            answer.error.CopyFrom(_status(refusal))
            return answer
        if fault == "unacknowledged":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the node is stopping")
        if fault == "silent":
            await asyncio.sleep(3_600)
        answer.success.current_revision = last.revision
        answer.success.position.commit_position = answer.success.position.prepare_position = last.position
        return answer

    async def Read(self, request, context):  # noqa: N802 - gRPC's name
        await self._node.demand_leader(context)
        options = request.options
        if options.WhichOneof("stream_option") == "stream":
            reading = self._read_stream(options)
        elif options.WhichOneof("count_option") == "subscription":
            reading = self._follow_all(options, context)
        else:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the double reads $all by subscription only")
        async for answer in reading:
            if self._node.cut_reads_after == 0:
                self._node.cut_reads_after = None
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the node is stopping")
            yield answer
            if self._node.cut_reads_after is not None:
                self._node.cut_reads_after -= 1

    async def _read_stream(self, options: Options) -> AsyncIterator[streams_pb2.ReadResp]:
        asked = options.stream
        there = self._node.log.stream(asked.stream_identifier.stream_name.decode())
        if there is None:
            answer = streams_pb2.ReadResp()
            answer.stream_not_found.stream_identifier.CopyFrom(asked.stream_identifier)
            yield answer
            return
        start = asked.revision if asked.WhichOneof("revision_option") == "revision" else None
        if options.read_direction == Options.Backwards:
            chosen = there[: len(there) if start is None else start + 1][::-1]
        else:
            chosen = there[start or 0 :]
        for stored in chosen[: options.count]:
            yield _event(stored)

    async def _follow_all(
        self, options: Options, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[streams_pb2.ReadResp]:
        log = self._node.log
        number = 0
        if options.all.WhichOneof("all_option") == "position":
            try:
                number = log.number_after(options.all.position.commit_position)
            except LookupError:
                await context.abort(grpc.StatusCode.UNKNOWN, "Unexpected FilteredReadAllResult: InvalidPosition")
        yield streams_pb2.ReadResp(
            confirmation=streams_pb2.ReadResp.SubscriptionConfirmation(subscription_id=str(uuid4()))
        )
        wanted, considered, live = _filter(options), 0, False
        while True:
            if number == len(log):
                if not live:
                    yield _caught_up(log)
                live = True
                await log.wait_longer_than(number)
            stored = log[number]
            number += 1
            considered += 1
            if wanted(stored):
                yield _event(stored)
            elif considered % (options.filter.max * options.filter.checkpointIntervalMultiplier) == 0:
                yield streams_pb2.ReadResp(
                    checkpoint=streams_pb2.ReadResp.Checkpoint(
                        commit_position=stored.position, prepare_position=stored.position
                    )
                )


def _filter(options: Options) -> Callable[[Stored], bool]:
    if options.WhichOneof("filter_option") != "filter":
        return lambda _stored: True
    by_stream = options.filter.WhichOneof("filter") == "stream_identifier"
    rule = options.filter.stream_identifier if by_stream else options.filter.event_type
    prefixes = tuple(rule.prefix)

    def wanted(stored: Stored) -> bool:
        text = stored.stream if by_stream else stored.event_type
        return text.startswith(prefixes) if prefixes else re.search(rule.regex, text) is not None

    return wanted


def _proposed(message: streams_pb2.BatchAppendReq.ProposedMessage) -> Proposed:
    return Proposed(
        event_id=str(UUID(message.id.string)),
        event_type=message.metadata["type"],
        content_type=message.metadata["content-type"],
        data=message.data,
    )


def _expected(options: streams_pb2.BatchAppendReq.Options) -> Expected:
    kind = options.WhichOneof("expected_stream_position")
    return Expected("exact", options.stream_position) if kind == "stream_position" else Expected(kind)


def _status(refusal: WrongVersion | TooLarge) -> status_pb2.Status:
    if isinstance(refusal, TooLarge):
        status = status_pb2.Status(code=INVALID_ARGUMENT, message="Maximum Append Size Exceeded")
        status.details.Pack(shared_pb2.MaximumAppendSizeExceeded(maxAppendSize=MAX_APPEND_BYTES))
        return status
    wrong = shared_pb2.WrongExpectedVersion()
    if refusal.current < 0:
        wrong.current_no_stream.SetInParent()
    else:
        wrong.current_stream_revision = refusal.current
    status = status_pb2.Status(code=FAILED_PRECONDITION, message="WrongExpectedVersion")
    status.details.Pack(wrong)
    return status


def _event(stored: Stored) -> streams_pb2.ReadResp:
    answer = streams_pb2.ReadResp()
    event = answer.event.event
    event.id.string = stored.event_id
    event.stream_identifier.stream_name = stored.stream.encode()
    event.stream_revision = stored.revision
    event.commit_position = event.prepare_position = answer.event.commit_position = stored.position
    event.metadata["type"] = stored.event_type
    event.metadata["content-type"] = stored.content_type
    event.metadata["created"] = "17000000000000000"
    event.data = stored.data
    return answer


def _caught_up(log: Log) -> streams_pb2.ReadResp:
    answer = streams_pb2.ReadResp()
    answer.caught_up.timestamp.GetCurrentTime()
    if len(log):
        answer.caught_up.position.commit_position = answer.caught_up.position.prepare_position = log[-1].position
    return answer
