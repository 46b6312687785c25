"""One sandbox as a container: every flag."""

import re
from pathlib import Path

import msgspec
import pytest
from unit.sandbox_manager.samples import NOW, evaluation_requested

from ridges.contracts.limits import MIB, SandboxLimits
from ridges.sandbox_manager.agent_sandbox import evaluation_spec
from ridges.sandbox_manager.docker_config import command_env, container_config, image_of, relay_config

IMAGE = image_of({"Id": "sha256:abc", "Config": {"Env": ["PATH=/opt/bin:/bin", "SECRET=x"], "Volumes": {"/data": {}}}})
SPEC = evaluation_spec(evaluation_requested(), b"", sandbox_id="s1", now=NOW)
DEFAULT = SandboxLimits()


HOSTS = {"Type": "bind", "Source": "/state/hosts", "Target": "/etc/hosts", "ReadOnly": True}


def config(limits: SandboxLimits = DEFAULT, proxy_dir: Path | None = None, runtime: str | None = None):
    spec = msgspec.structs.replace(SPEC, limits=limits)
    return container_config(
        spec,
        ("python3", "-I"),
        IMAGE,
        owner="o",
        engine_cpus=2,
        hosts_file=Path("/state/hosts"),
        proxy_dir=proxy_dir,
        runtime=runtime,
    )


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("ReadonlyRootfs", True),
        ("CapDrop", ["ALL"]),
        ("SecurityOpt", ["no-new-privileges:true"]),
        ("NetworkMode", "none"),
        ("IpcMode", "private"),
        ("Memory", 2048 * MIB),
        ("MemorySwap", 2048 * MIB),
        ("PidsLimit", 256),
        ("NanoCpus", 1_000_000_000),
        ("LogConfig", {"Type": "none", "Config": {}}),
        ("Mounts", [HOSTS]),
    ],
)
def test_every_flag_of_the_design(flag, value):
    assert config()["HostConfig"][flag] == value


def test_ulimits_bound_files_and_cores_and_never_the_users_processes():
    limits = {entry["Name"]: (entry["Soft"], entry["Hard"]) for entry in config()["HostConfig"]["Ulimits"]}
    assert limits["core"] == (0, 0)
    assert limits["fsize"] == (1024 * MIB, 1024 * MIB)
    assert limits["nofile"][1] <= 4096
    assert "nproc" not in limits


def test_the_container_is_pinned_unprivileged_and_marked():
    body = config()
    assert (body["Image"], body["User"]) == ("sha256:abc", "1000:1000")
    assert body["Labels"] == {
        "ridges.owner": "o",
        "ridges.run": SPEC.run_id,
        "ridges.sandbox": "s1",
        "ridges.deadline": SPEC.deadline.isoformat(timespec="seconds"),
    }
    assert (body["Entrypoint"], body["Cmd"]) == (["python3"], ["-I"])


@pytest.mark.parametrize("memory_mib", [64, 256, 2048, 65536])
def test_full_temporary_file_systems_leave_memory_for_processes(memory_mib):
    host = config(SandboxLimits(memory_bytes=memory_mib * MIB, disk_bytes=100_000 * MIB))["HostConfig"]
    ours = {path: options for path, options in host["Tmpfs"].items() if path not in ("/data", "/dev/mqueue")}
    assert set(ours) == {"/sandbox", "/tmp", "/home/agent"}
    sizes = [int(re.search(r"size=(\d+)", options)[1]) for options in ours.values()]
    assert sum(sizes) + host["ShmSize"] < memory_mib * MIB
    assert all("exec" in options and "nosuid" in options for options in ours.values())


def test_the_working_directory_has_the_disk_limit_where_memory_allows():
    assert config()["HostConfig"]["Tmpfs"]["/sandbox"].split(",").count(f"size={1024 * MIB}") == 1


def test_empty_files_do_not_fill_the_memory_that_the_result_needs():
    for memory_mib in (512, 2048, 65536):
        host = config(SandboxLimits(memory_bytes=memory_mib * MIB))["HostConfig"]
        inodes = [int(found[1]) for each in host["Tmpfs"].values() if (found := re.search(r"nr_inodes=(\d+)", each))]
        assert len(inodes) == 3
        assert sum(inodes) * 1536 < memory_mib * MIB * 0.75


def test_its_network_is_the_runtimes_and_empty():
    body = config()
    assert (body["NetworkDisabled"], body["HostConfig"]["NetworkMode"], body["Hostname"]) == (True, "none", "sandbox")


def test_a_sandbox_beside_a_relay_has_its_network_and_no_socket():
    body = container_config(
        SPEC, ("p",), IMAGE, owner="o", engine_cpus=2, hosts_file=Path("/h"), proxy_dir=None, runtime=None, relay="r"
    )
    assert body["HostConfig"]["NetworkMode"] == "container:r"
    assert not {"NetworkDisabled", "Hostname"} & body.keys(), "the engine refuses both"


def test_a_relay_is_as_tight_as_a_sandbox_and_another_user():
    body, alike = relay_config(SPEC, ("p",), IMAGE, owner="o", proxy_dir=Path("/run/x"), runtime="runsc"), config()
    host = body["HostConfig"]
    for flag in ("ReadonlyRootfs", "CapDrop", "SecurityOpt", "NetworkMode", "LogConfig", "AutoRemove", "RestartPolicy"):
        assert host[flag] == alike["HostConfig"][flag]
    assert (body["NetworkDisabled"], body["Labels"]) == (True, alike["Labels"])
    assert body["User"] not in (alike["User"], "0:0", "")
    assert host["Memory"] == host["MemorySwap"] == 128 * MIB
    assert host["Mounts"] == [{"Type": "bind", "Source": "/run/x", "Target": "/run/ridges", "ReadOnly": True}]
    assert (host["Runtime"], list(host["Tmpfs"])) == ("runsc", ["/data"])


def test_an_images_volumes_never_reach_the_hosts_disk():
    assert "/data" in config()["HostConfig"]["Tmpfs"]


def test_more_cpus_than_the_engine_has_are_not_asked_for():
    assert config(SandboxLimits(cpus=16))["HostConfig"]["NanoCpus"] == 2_000_000_000


def test_the_proxy_is_mounted_read_only_and_the_runtime_is_a_setting():
    host = config(proxy_dir=Path("/run/x"), runtime="runsc")["HostConfig"]
    assert host["Mounts"] == [HOSTS, {"Type": "bind", "Source": "/run/x", "Target": "/run/ridges", "ReadOnly": True}]
    assert host["Runtime"] == "runsc"
    assert "Runtime" not in config()["HostConfig"]


def test_of_the_images_environment_only_its_path_gets_in():
    env = command_env(SPEC, IMAGE)
    assert env["PATH"] == "/opt/bin:/bin"
    assert "SECRET" not in env
    assert {"HOME", "LANG", "TMPDIR"} <= set(env)
