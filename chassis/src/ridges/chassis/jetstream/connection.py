"""The connection to the log's server: kept alive for ever, verified each time it comes up, never silently denied."""

import asyncio
import time
from asyncio import Future
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TypeVar

import msgspec
import structlog
from nats import errors
from nats.aio.msg import Msg
from nats.js.errors import APIError, ServerError, ServiceUnavailableError

from ridges.chassis.jetstream.asking import Answer, Questions
from ridges.chassis.jetstream.client import LogClient
from ridges.chassis.jetstream.fence import refusal
from ridges.chassis.jetstream.place import Place
from ridges.chassis.jetstream.verify import MORE_STORAGE, NotYet, storage_trouble, verified_epoch
from ridges.chassis.ports import EventRefused, EventStoreUnavailable, LogMismatch
from ridges.contracts.subjects import EVENTS_STREAM

log = structlog.get_logger(__name__)

REQUEST_TIMEOUT_S = 2.5
PATIENCE_S = 8.0
"""How long calls retry by themselves."""
RETRY_PAUSE_S = 0.1
VERIFY_PAUSE_S = 0.5
WATCH_S = 3.0
"""How often a service looks whether its log has been closed: one that only reads would not notice."""

OUT_OF_STORAGE = frozenset({10023, 10047})
"""Error codes of a server that may store no more."""

PERMANENT = (errors.MaxPayloadError, errors.BadSubjectError, errors.BadHeaderError)
Result = TypeVar("Result")


class Connection:
    """One NATS client after another, until ``close``."""

    def __init__(self, place: Place, also_verify: Callable[[str], Awaitable[None]] | None = None) -> None:
        """``also_verify`` is asked with the log's epoch before it counts as ready. It may raise NotYet, LogMismatch."""
        self.place = place
        self._also_verify = also_verify
        self.epoch: str | None = None
        self.reconnected: set[Callable[[], None]] = set()
        """Called each time the log is there again after it was away."""
        self._client: LogClient | None = None
        self._questions: Questions | None = None
        self._settled = asyncio.Event()
        """Ready, or refused for good."""
        self._changed = asyncio.Event()
        self.refused = False
        """For good; ``trouble`` says why."""
        self.on_refusal: Callable[[], object] | None = None
        self._trouble = f"no NATS server answers at {place.address} yet; start it (ridges up, or nats-server)"
        self._losses = 0
        self._watched: defaultdict[str, set[asyncio.Future[NoReturn]]] = defaultdict(set)
        self._supervisor: asyncio.Task[None] | None = None

    async def open(self, wait_s: float) -> None:
        """Start connecting; return when the log is ready, or after the wait (then it goes on in the background).

        Raises:
            LogMismatch: the log answered and is not the configured one.
        """
        self._supervisor = asyncio.create_task(self._supervise(), name="event-store-connection")
        try:
            async with asyncio.timeout(wait_s):
                await self.ready()
        except TimeoutError:
            log.warning("the event log is not ready", reason=self._trouble)

    async def close(self) -> None:
        self.on_refusal = None
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        if self._client is not None and not self._client.is_closed:
            with suppress(OSError):  # the connection broke meanwhile: that is an end as well
                await self._client.close()

    @property
    def client(self) -> LogClient:
        if self._client is None or self._client.is_closed:
            raise EventStoreUnavailable(self._trouble)
        return self._client

    @property
    def trouble(self) -> str:
        return self._trouble

    async def ready(self) -> None:
        """Wait until the log is there and verified. Raises LogMismatch."""
        await self._settled.wait()
        if self.refused:
            raise LogMismatch(self._trouble)

    def check_ready(self) -> None:
        """Raises EventStoreUnavailable or LogMismatch when a call would have to wait."""
        if self.refused:
            raise LogMismatch(self._trouble)
        if not self._settled.is_set():
            raise EventStoreUnavailable(self._trouble)

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: dict[str, str] | None = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
        before: list[Answer] | None = None,
    ) -> Answer:
        """The answer to one request. ``before``: see ``Questions.ask``.

        Raises:
            EventRefused: the server denies this user the subject (NATS itself would let it time out).
            EventStoreUnavailable: the connection was lost meanwhile, the answer with it.
        """
        reply, answer = self.ask((subject,), timeout_s, before)
        try:
            await self.client.publish(subject, payload, reply=reply, headers=headers)
        except BaseException:
            answer.cancel()
            raise
        return await answer

    def ask(
        self, subjects: Collection[str], timeout_s: float = REQUEST_TIMEOUT_S, before: list[Answer] | None = None
    ) -> "tuple[str, Future[Answer]]":
        """The reply subject for something that the caller sends himself (to these subjects), and the answer to it.

        Raises:
            EventStoreUnavailable: not connected. The answer fails as ``request`` does.
        """
        if self._questions is None:
            raise EventStoreUnavailable(self._trouble)
        return self._questions.ask({subject.lower() for subject in subjects}, timeout_s, before)

    async def api(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer of the JetStream API. Raises APIError."""
        payload = msgspec.json.encode(body) if body is not None else b""
        return read_reply(await self.request(f"$JS.API.{path}", payload))

    async def persist(
        self, what: str, attempt: Callable[[], Awaitable[Result]], patience_s: float = PATIENCE_S, hint: str = ""
    ) -> Result:
        """The attempt's result; tried again while the log is away or overloaded, until the patience ends.

        ``hint``: why a server that is there may not answer.

        Raises:
            EventStoreUnavailable: the patience ended.
        """
        deadline = time.monotonic() + patience_s
        reason = ""
        while (left_s := deadline - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(left_s):
                    await self.ready()
                    return await attempt()
            except TimeoutError:
                unanswered = f"no answer from {self.place.address}{hint}"
                reason = self._trouble if not self._settled.is_set() else reason or unanswered
            except PERMANENT as error:
                raise EventRefused(f"{what}: {error}") from error
            except (ServiceUnavailableError, ServerError) as error:
                reason = error.description or str(error)
                if error.err_code in OUT_OF_STORAGE:
                    reason = f"the NATS server has {reason}; {MORE_STORAGE}"
            except APIError:
                raise
            except (errors.Error, OSError, EventStoreUnavailable) as error:
                reason = self._trouble if not self._settled.is_set() else str(error)
            await asyncio.sleep(RETRY_PAUSE_S)
        if self._settled.is_set():
            reason = await storage_trouble(self.place.monitor_url) or reason
        raise EventStoreUnavailable(f"{what}: no success within {patience_s:g} s: {reason}")

    @contextmanager
    def watched(self, subject: str) -> Iterator["asyncio.Future[NoReturn]"]:
        """A future that fails when the server denies this user the subject or when the connection is lost."""
        failed: asyncio.Future[NoReturn] = asyncio.get_running_loop().create_future()
        watching = self._watched[subject.lower()]
        watching.add(failed)
        try:
            yield failed
        finally:
            watching.discard(failed)
            if not watching:
                self._watched.pop(subject.lower(), None)
            if not failed.cancel():
                failed.exception()  # retrieved, whether somebody looked or not

    async def _supervise(self) -> None:
        while not self.refused:
            try:
                self._client = await self._connect()
                await self._keep_verified(self._client)
            except asyncio.CancelledError:
                raise
            except LogMismatch as mismatch:
                self._refuse(str(mismatch))
            except Exception as error:  # noqa: BLE001 - the connection must outlive whatever the client raises
                log.warning("the connection to the event log broke", error=repr(error))
            await asyncio.sleep(VERIFY_PAUSE_S)

    async def _connect(self) -> LogClient:
        client = LogClient()
        try:
            await client.connect(
                self.place.url,
                name=self.place.name,
                user=self.place.user,
                password=self.place.password,
                inbox_prefix=self.place.inbox_prefix,
                error_cb=self._on_error,
                disconnected_cb=self._on_lost,
                reconnected_cb=self._on_change,
                closed_cb=self._on_lost,
                allow_reconnect=True,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.2,  # type: ignore[arg-type]  # any number of seconds
                connect_timeout=2,
                ping_interval=10,
                max_outstanding_pings=2,
                pending_size=16 * 1024 * 1024,
            )
            questions = Questions(client)
            await questions.open()
        except BaseException:
            await client.close()
            raise
        self._questions = questions
        return client

    async def _keep_verified(self, client: LogClient) -> None:
        """Until the client is closed: after each (re)connection verify the log, then let waiting calls go on."""
        while not client.is_closed and not self.refused:
            self._changed.clear()
            if client.is_connected and not self._settled.is_set():
                losses = self._losses
                try:
                    epoch = await self._verified()
                except (NotYet, APIError, errors.Error, OSError, EventStoreUnavailable) as error:
                    self._trouble = str(error) or f"no answer from {self.place.address}"
                    await asyncio.sleep(VERIFY_PAUSE_S)
                    continue
                except EventRefused as denied:
                    raise LogMismatch(str(denied)) from denied
                self._compare(epoch)
                if losses == self._losses:
                    self._become_ready()
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(WATCH_S):
                    await self._changed.wait()
                    continue
            await self.check_here()

    async def check_here(self) -> None:
        """Returns while the log has not been closed to be moved elsewhere, or when it does not tell.

        Raises:
            LogMismatch: it has, and is refused from now on.
        """
        if self.refused:
            raise LogMismatch(self._trouble)
        if not self._settled.is_set():
            return
        try:
            info = await self.api(f"STREAM.INFO.{EVENTS_STREAM}")
        except (APIError, errors.Error, OSError, EventStoreUnavailable, EventRefused):
            return
        reason = refusal(info["config"].get("metadata") or {}, self.place.address)
        if reason is not None:
            self._refuse(reason)
            raise LogMismatch(reason)

    async def _verified(self) -> str:
        place = self.place
        epoch = await verified_epoch(
            self.api,
            place.monitor_url,
            address=place.address,
            allow_lossy=place.allow_lossy,
            log_of_record=place.log_of_record,
        )
        if place.log_epoch not in (None, epoch):
            raise LogMismatch(
                f"the log at {place.address} has the epoch {epoch}, RIDGES_LOG_EPOCH says {place.log_epoch}: it is "
                "another log, or was started anew; mend RIDGES_NATS_URL, or the setting when that was meant"
            )
        if self._also_verify is not None:
            await self._also_verify(epoch)
        return epoch

    def _compare(self, epoch: str) -> None:
        if self.epoch not in (None, epoch):
            raise LogMismatch(
                f"the log at {self.place.address} was replaced while this service ran (epoch {self.epoch} became "
                f"{epoch}); restart the service, and the ledger with `ridges ledger rebuild`"
            )
        self.epoch = epoch

    def _become_ready(self) -> None:
        self._settled.set()
        log.info("the event log is ready", url=self.place.address, epoch=self.epoch)
        for notify in tuple(self.reconnected):
            notify()

    def _refuse(self, reason: str) -> None:
        if self.refused:
            return
        self.refused, self._trouble = True, reason
        self._settled.set()
        if self.on_refusal is not None:
            self.on_refusal()
        log.error("the event log is refused", reason=reason)

    async def _on_error(self, error: Exception) -> None:
        told = str(error) or type(error).__name__
        if "permissions violation" in told:
            self._deny(told)
        elif "authorization violation" in told.lower() and self.epoch is None:
            raise LogMismatch(  # out of the client's endless connect
                f"the NATS server at {self.place.address} refuses user {self.place.user!r}; "
                "set RIDGES_NATS_USER and RIDGES_NATS_PASSWORD as on the server"
            )
        else:
            log.debug("nats", error=told)

    def _deny(self, told: str) -> None:
        log.error("the NATS server denies a subject", error=told)
        subject = told.partition('"')[2].rpartition('"')[0]
        if "subscription" in told and subject.startswith(f"{self.place.inbox_prefix}.".lower()):
            self._refuse(
                f"user {self.place.user!r} may not get answers at the NATS server {self.place.address} ({told}); its "
                "users are of another release: write its configuration again (infra/nats.conf, or "
                "`python -m ridges.chassis.jetstream.permissions`) and restart it"
            )
        denial = f"{told}; user {self.place.user!r} lacks this permission on the server"
        if self._questions is not None:
            self._questions.deny(subject, EventRefused(denial))
        for failed in self._watched.get(subject, ()):
            _fail(failed, EventRefused(denial))

    async def _on_lost(self) -> None:
        self._losses += 1
        if not self.refused:
            self._settled.clear()
            self._trouble = f"the connection to {self.place.address} is lost; is nats-server running?"
        if self._questions is not None:
            self._questions.lose(EventStoreUnavailable(self._trouble))
        for watching in self._watched.values():
            for failed in watching:
                _fail(failed, EventStoreUnavailable(self._trouble))
        self._changed.set()

    async def _on_change(self) -> None:
        self._changed.set()


def _fail(failed: "asyncio.Future[NoReturn]", error: Exception) -> None:
    if not failed.done():
        failed.set_exception(error)


def read_reply(reply: Answer | Msg) -> dict[str, Any]:
    """The JSON of a JetStream answer. Raises APIError."""
    fields: dict[str, Any] = msgspec.json.decode(reply.data)
    if "error" in fields:
        raise APIError.from_error(fields["error"])
    return fields
