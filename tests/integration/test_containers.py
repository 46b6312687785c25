"""The system as it is deployed: nats-server and each service in its container, sandboxes made by the engine."""

import contextlib
import os
import secrets
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import docker
import httpx
import pytest
from docker_images import docker as run_docker
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from ridges.chassis.jetstream.permissions import ADMIN, password_variable, users

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

REPOSITORY = Path(__file__).parents[2]
SERVICES = {"ledger": 8100, "gateway": 8101, "sandbox-manager": 8102, "evaluator": 8103}
IMAGES = ["ridges-nats", "ridges-agent", *(f"ridges-{service}" for service in SERVICES)]
SERVICE_USER = 10001
OWN_STATE = ("ledger", "migrate")
"""Containers whose state may go with them."""
ENGINE_SOCKET = "/var/run/docker.sock"
PROBLEM = "fix-room-clock-change"


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    """The Docker Engine, with all our images."""
    try:
        run_docker("image", "inspect", *(f"{name}:latest" for name in IMAGES))
    except (OSError, subprocess.SubprocessError) as error:
        words = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        reason = f"no Docker Engine with all our images (./just images): {words}"
        if os.environ.get("RIDGES_REQUIRE_DOCKER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with contextlib.closing(docker.from_env()) as client:
        yield client


class System:
    """All containers of one installation, and the addresses of the services as seen from here."""

    def __init__(self, engine: docker.DockerClient, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self.containers: dict[str, DockerContainer] = {}
        self.run_token_key, self.api_token = secrets.token_hex(32), secrets.token_hex(32)
        self.passwords = {user.name: secrets.token_hex(32) for user in users()}

    @contextlib.contextmanager
    def running(self) -> Iterator["System"]:
        testcontainers_config.ryuk_disabled = True  # an image of a registry; the exit stack removes everything
        with contextlib.ExitStack() as stack:
            self.stack, self.network = stack, stack.enter_context(Network())
            self.start("nats", "ridges-nats", {password_variable(user): word for user, word in self.passwords.items()})
            self.migrate()
            for service in SERVICES:
                self.start(service, f"ridges-{service}", self.environment(service))
            for service in SERVICES:
                self.wait_for(f"/readyz of {service}", partial(self.check_ready, service))
            yield self

    def start(self, name: str, image: str, env: dict[str, str], command: str | None = None) -> DockerContainer:
        container = DockerContainer(f"{image}:latest", command=command)
        container.with_network(self.network).with_network_aliases(name).with_envs(**env)
        container.with_kwargs(**self.options(name))
        container.tmpfs = (
            {"/tmp": "", "/var/lib/ridges/state": f"uid={SERVICE_USER}"} if name in OWN_STATE else {"/tmp": ""}
        )
        for host, inside, mode in self.mounts(name):
            container.with_volume_mapping(str(host), inside, mode)
        if name in SERVICES:
            container.with_exposed_ports(SERVICES[name])
        self.containers[name] = self.stack.enter_context(container)
        return container

    def migrate(self) -> None:
        as_admin = self.environment("ledger") | self.login(ADMIN)
        one_shot = self.start("migrate", "ridges-ledger", as_admin, "python3 -m ridges.chassis.migrate")
        ended = one_shot.get_wrapped_container().wait(timeout=70)
        assert ended["StatusCode"] == 0, one_shot.get_logs()

    def environment(self, service: str) -> dict[str, str]:
        own = {
            "ledger": {"RIDGES_STATE_DIR": "/var/lib/ridges/state", "RIDGES_API_TOKEN": self.api_token},
            "gateway": {"RIDGES_CONFIG": "/etc/ridges/ridges.toml", "RIDGES_RUN_TOKEN_KEY": self.run_token_key},
            "sandbox-manager": {
                "RIDGES_SANDBOX": "docker",
                "RIDGES_GATEWAY_URL": f"http://gateway:{SERVICES['gateway']}",
                "RIDGES_RUN_TOKEN_KEY": self.run_token_key,
                "RIDGES_STATE_DIR": "/var/lib/ridges/state",
                "RIDGES_HOST_STATE_DIR": str(self.folder / "manager"),
            },
            "evaluator": {"RIDGES_PROBLEMS_DIRS": "/problems"},
        }
        return (
            own[service]
            | self.login(service)
            | {
                "RIDGES_NATS_URL": "nats://nats:4222",
                "RIDGES_NATS_MONITOR_URL": "http://nats:8222",
                "RIDGES_BLOBS_URL": "file:///var/lib/ridges/blobs",
                "RIDGES_HTTP_HOST": "0.0.0.0",
                "RIDGES_HTTP_PORT": str(SERVICES[service]),
            }
        )

    def login(self, user: str) -> dict[str, str]:
        return {"RIDGES_NATS_USER": user, "RIDGES_NATS_PASSWORD": self.passwords[user]}

    def mounts(self, name: str) -> list[tuple[str | Path, str, str]]:
        own: dict[str, list[tuple[str | Path, str, str]]] = {
            "gateway": [
                (REPOSITORY / "ridges.toml", "/etc/ridges/ridges.toml", "ro"),
                (REPOSITORY / "examples", "/etc/ridges/examples", "ro"),
            ],
            "sandbox-manager": [
                (ENGINE_SOCKET, ENGINE_SOCKET, "rw"),
                (self.folder / "manager", "/var/lib/ridges/state", "rw"),
            ],
            "evaluator": [(REPOSITORY / "examples" / "problems", "/problems", "ro")],
        }
        shared = [(self.folder / "blobs", "/var/lib/ridges/blobs", "rw")] if name in SERVICES else []
        return shared + own.get(name, [])

    def options(self, name: str) -> dict[str, object]:
        hardened: dict[str, object] = {"cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"]}
        if name != "nats":
            hardened |= {"read_only": True, "init": True}
        if name == "sandbox-manager":
            hardened |= {"group_add": [Path(ENGINE_SOCKET).stat().st_gid]}
        return hardened

    def check_ready(self, service: str) -> None:
        answer = self.get(service, "/readyz")
        assert answer.status_code == httpx.codes.OK, answer.text

    def get(self, service: str, path: str) -> httpx.Response:
        return httpx.get(self.url(service) + path, headers=self.credentials, timeout=5)

    @property
    def credentials(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_token}"}

    def url(self, service: str) -> str:
        container = self.containers[service]
        return f"http://{container.get_container_host_ip()}:{container.get_exposed_port(SERVICES[service])}"

    def wait_for(self, what: str, attempt: Callable[[], None], timeout_s: float = 60) -> None:
        give_up = time.monotonic() + timeout_s
        while True:
            try:
                attempt()
                return
            except TimeoutError:
                pytest.fail(f"a container ended before {what}\n{self.last_words()}")
            except (httpx.HTTPError, AssertionError) as error:
                if time.monotonic() > give_up:
                    pytest.fail(f"{what} took over {timeout_s} s: {error}\n{self.last_words()}")
                time.sleep(0.3)

    def last_words(self) -> str:
        logs = {
            name: b"".join(container.get_logs()).decode("utf-8", "replace")
            for name, container in self.containers.items()
        }
        return "\n".join(f"--- {name}\n{text[-2000:]}" for name, text in logs.items())

    def stop(self, service: str) -> int:
        """Exit code after SIGTERM."""
        container = self.containers[service].get_wrapped_container()
        container.kill("SIGTERM")
        return int(container.wait(timeout=60)["StatusCode"])


@pytest.fixture(scope="module")
def system(engine: docker.DockerClient) -> Iterator[System]:
    folder = Path(tempfile.mkdtemp(prefix="ridges-containers-"))
    folder.chmod(0o711)
    for name in ("blobs", "manager"):
        (folder / name).mkdir()
        # The services' user is not ours, and this test may run without root.
        (folder / name).chmod(stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO)
    try:
        with System(engine, folder).running() as system:
            yield system
    finally:
        empty_as_service_user(engine, folder)
        shutil.rmtree(folder, ignore_errors=True)


def empty_as_service_user(engine: docker.DockerClient, folder: Path) -> None:
    """What the services wrote is theirs: only they (or root) may remove it."""
    engine.containers.run(
        "ridges-ledger:latest",
        ["sh", "-c", "rm -rf /left/*/* /left/*/.[!.]*"],
        volumes={str(folder): {"bind": "/left", "mode": "rw"}},
        network_mode="none",
        remove=True,
    )


@pytest.fixture(scope="module")
def finished_run(system: System) -> dict[str, object]:
    """One run of the example agent, asked for over HTTP and waited for."""
    system.wait_for(f"publication of {PROBLEM}", partial(problem_is_published, system))
    agent = (REPOSITORY / "examples" / "agents" / "llm_agent.py").read_text()
    asked = httpx.post(
        f"{system.url('ledger')}/v1/runs",
        headers=system.credentials,
        json={"problem": PROBLEM, "agent_source": agent, "sandbox": "docker"},
        timeout=30,
    )
    assert asked.status_code == httpx.codes.CREATED, asked.text
    give_up = time.monotonic() + 150
    while time.monotonic() < give_up:
        run: dict[str, object] = system.get("ledger", f"/v1/runs/{asked.json()['run_id']}").json()
        if run["state"] in ("finished", "error"):
            return run
        time.sleep(0.5)
    pytest.fail(f"the run is still {run['state']}\n{system.last_words()}")


def problem_is_published(system: System) -> None:
    assert PROBLEM in [row["problem_id"] for row in system.get("ledger", "/v1/problems").json()]


def test_one_problem_runs_to_its_verdict(system: System, finished_run: dict[str, object]) -> None:
    """The recorded model's patch is judged resolved, in a Docker sandbox."""
    if finished_run["verdict"] != "resolved":
        pytest.fail(
            f"{finished_run['state']}: {finished_run['cause']}: {finished_run['detail']}\n{system.last_words()}"
        )
    assert finished_run["sandbox"] == "docker"
    assert finished_run["tests_passed"] == finished_run["tests_total"] != 0


def test_its_model_calls_are_charged(system: System, finished_run: dict[str, object]) -> None:
    """What the ledger charges is the sum of the calls' events."""
    rows = system.get("ledger", f"/v1/runs/{finished_run['run_id']}/events").json()
    made = [row["event"] for row in rows if row["event"]["type"] == "InferenceMade"]
    assert len(made) == finished_run["requests"] != 0
    assert sum(event["cost_nano_usd"] for event in made) == finished_run["cost_nano_usd"] != 0


def test_no_sandbox_is_left(engine: docker.DockerClient, system: System, finished_run: dict[str, object]) -> None:
    """Neither a container nor a network of the run stays behind; they may go some moments after its verdict."""
    system.wait_for("removal of its sandboxes", partial(nothing_is_left, engine, system, finished_run))


def nothing_is_left(engine: docker.DockerClient, system: System, run: dict[str, object]) -> None:
    of_run = {"label": f"ridges.run={run['run_id']}"}
    assert engine.containers.list(all=True, filters=of_run) == []
    assert engine.networks.list(filters=of_run) == []
    assert list((system.folder / "manager").glob("**/proxy.sock")) == []


@pytest.mark.parametrize("service", SERVICES)
def test_sigterm_drains(system: System, finished_run: dict[str, object], service: str) -> None:
    """A stopped container ends by itself, with success."""
    assert system.stop(service) == 0, system.last_words()
