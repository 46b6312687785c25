"""What the adapter takes for granted of KurrentDB and its client. The double must do it as the real one does."""

import asyncio
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from kurrentdbclient import AsyncKurrentDBClient, NewEvent, StreamState
from kurrentdbclient.exceptions import MaximumAppendSizeExceededError, NotFoundError, WrongCurrentVersionError

NO_STREAM, ANY = StreamState.NO_STREAM, StreamState.ANY


def event(event_type="A", data=b"{}"):
    return NewEvent(type=event_type, data=data, id=uuid4())


class KurrentContractSuite:
    """Fixture ``kurrentdb``: ``url``, ``start``, ``stop``."""

    @pytest.fixture
    async def client(self, kurrentdb):
        client = AsyncKurrentDBClient(kurrentdb.url)
        yield client
        await client.close()

    @pytest.fixture
    def stream(self):
        return f"run-{uuid4()}"

    async def test_an_append_behind_the_expected_end_is_stored(self, client, stream):
        events = [event(), event("B", b'{"n":2}'), event()]
        await client.append_to_stream(stream, current_version=NO_STREAM, events=events[0])
        await client.append_to_stream(stream, current_version=0, events=events[1:])
        found = await client.get_stream(stream)
        assert [(e.id, e.type, e.data, e.stream_position) for e in found] == [
            (e.id, e.type, e.data, number) for number, e in enumerate(events)
        ]

    @pytest.mark.parametrize("expected", [NO_STREAM, 0, 2, 9])
    async def test_any_other_expected_end_is_refused_with_the_right_one(self, client, stream, expected):
        await client.append_to_stream(stream, current_version=NO_STREAM, events=[event(), event()])
        with pytest.raises(WrongCurrentVersionError) as caught:
            await client.append_to_stream(stream, current_version=expected, events=event())
        assert caught.value.actual_version == 1

    async def test_a_stream_that_is_not_there_has_no_end(self, client, stream):
        with pytest.raises(WrongCurrentVersionError) as caught:
            await client.append_to_stream(stream, current_version=0, events=event())
        assert caught.value.actual_version == NO_STREAM
        with pytest.raises(NotFoundError):
            await client.get_stream(stream)

    async def test_a_repeated_append_is_stored_once_also_after_others_and_a_restart(self, client, stream, kurrentdb):
        events = [event(), event()]
        await client.append_to_stream(stream, current_version=NO_STREAM, events=events)
        await client.append_to_stream(stream, current_version=1, events=event())
        await kurrentdb.stop()
        await kurrentdb.start()
        await client.append_to_stream(stream, current_version=NO_STREAM, events=events)
        assert len(await client.get_stream(stream)) == 3

    async def test_a_repetition_with_something_new_in_it_is_refused(self, client, stream):
        events = [event(), event()]
        await client.append_to_stream(stream, current_version=NO_STREAM, events=events)
        with pytest.raises(WrongCurrentVersionError):
            await client.append_to_stream(stream, current_version=NO_STREAM, events=[events[0], event()])
        assert len(await client.get_stream(stream)) == 2

    async def test_an_id_counts_within_its_stream_only(self, client, stream):
        one = event()
        await client.append_to_stream(stream, current_version=NO_STREAM, events=one)
        await client.append_to_stream(f"{stream}-other", current_version=NO_STREAM, events=one)
        assert len(await client.get_stream(f"{stream}-other")) == 1

    async def test_an_append_that_is_too_large_is_refused(self, client, stream):
        with pytest.raises(MaximumAppendSizeExceededError):
            await client.append_to_stream(
                stream, current_version=NO_STREAM, events=[event(data=b"x" * 300_000) for _ in range(4)]
            )

    async def test_a_read_behind_the_end_is_empty(self, client, stream):
        await client.append_to_stream(stream, current_version=NO_STREAM, events=[event(), event()])
        assert await client.get_stream(stream, stream_position=2) == ()
        [last] = await client.get_stream(stream, stream_position=1, limit=1)
        assert last.stream_position == 1

    async def test_metadata_are_declared_once(self, client):
        stream = f"log-{uuid4()}"
        assert await client.get_stream_metadata(stream) == ({}, NO_STREAM)
        await client.set_stream_metadata(stream, metadata={"epoch": "1"}, current_version=NO_STREAM)
        with pytest.raises(WrongCurrentVersionError):
            await client.set_stream_metadata(stream, metadata={"epoch": "2"}, current_version=NO_STREAM)
        assert (await client.get_stream_metadata(stream))[0] == {"epoch": "1"}

    async def test_a_subscription_gives_chosen_streams_in_order_says_when_it_caught_up_and_goes_on(self, client):
        mine = f"run-{uuid4()}"
        await client.append_to_stream(f"other-{uuid4()}", current_version=ANY, events=event())
        await client.append_to_stream(mine, current_version=NO_STREAM, events=[event(), event(), event()])
        async with self.following(client, mine) as subscription:
            found = [await anext(subscription) for _ in range(4)]
            assert [e.stream_position for e in found[:3]] == [0, 1, 2]
            positions = [e.commit_position for e in found[:3]]
            assert positions == sorted(set(positions)), "each event has a commit position of its own"
            assert found[3].is_caught_up
            assert [e.commit_position for e in await client.get_stream(mine)] == positions
            await client.append_to_stream(f"other-{uuid4()}", current_version=ANY, events=event())
            await client.append_to_stream(mine, current_version=2, events=event())
            assert (await anext(subscription)).stream_position == 3
        async with self.following(client, mine, positions[1]) as subscription:
            assert [(await anext(subscription)).stream_position for _ in range(2)] == [2, 3]

    async def test_a_subscription_through_many_foreign_events_has_checkpoints(self, client):
        foreign, mine = f"other-{uuid4()}", f"run-{uuid4()}"
        await client.append_to_stream(foreign, current_version=NO_STREAM, events=[event() for _ in range(400)])
        await client.append_to_stream(mine, current_version=NO_STREAM, events=event())
        async with self.following(client, mine, include_checkpoints=True) as subscription:
            checkpoints = 0
            while (found := await anext(subscription)).is_checkpoint:
                checkpoints += 1
        assert checkpoints >= 2
        assert found.stream_name == mine

    async def test_a_subscription_breaks_when_the_server_goes_away(self, client, stream, kurrentdb):
        await client.append_to_stream(stream, current_version=NO_STREAM, events=event())
        async with self.following(client, stream) as subscription:
            assert (await anext(subscription)).stream_position == 0
            await kurrentdb.stop()
            with pytest.raises(Exception):  # noqa: B017, PT012 - of whatever kind, after what was under way
                while True:
                    await anext(subscription)
            await kurrentdb.start()

    @asynccontextmanager
    async def following(self, client, prefix, after=None, **options):
        async with asyncio.timeout(30):
            subscription = await client.subscribe_to_all(
                commit_position=after,
                filter_exclude=(),
                filter_include=(prefix,),
                filter_by_stream_name=True,
                filter_by_prefix=True,
                include_caught_up=True,
                **options,
            )
            try:
                yield subscription
            finally:
                await subscription.stop()
