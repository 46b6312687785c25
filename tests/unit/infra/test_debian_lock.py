"""Debian's packages of the agent image: what is locked is what a build gets, from wherever it still is, or nothing."""

import base64
import functools
import hashlib
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

IMAGES = Path(__file__).parents[3] / "infra" / "images"
DEBS = {
    "pool/main/g/git/git_2.1~x+1_amd64.deb": b"the git of the lock",
    "pool/updates/main/n/nodejs/nodejs_18_amd64.deb": b"the node of the lock",
}
PLAYED_DOCKER = f"""#!{sys.executable}
import os, pathlib, sys
script = sys.argv[sys.argv.index("-c") + 1]
world = pathlib.Path(os.environ["PLAYED"])
sys.stderr.write((world / "complaint").read_text() if "print-uris" in script else "")
name = "plan" if "print-uris" in script else "facts" if "dpkg-query" in script else "solved"
sys.stdout.write((world / name).read_text())
sys.exit((world / "complaint").stat().st_size > 0 and name == "plan")
"""


def stanza(path: str, version: str = "18") -> str:
    name, content = path.rsplit("/", 1)[1].split("_", maxsplit=1)[0], DEBS[path]
    return (
        f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nDepends: libc6 (>= 2.36)\nFilename: {path}\n"
        f"Size: {len(content)}\nSHA256: {hashlib.sha256(content).hexdigest()}\n"
    )


LOCK = "# Taken: 20260102T030405Z\n\n" + "\n".join(stanza(path) for path in DEBS)


class World:
    """A checkout with the lock of `imaginary`, a base of that release, a mirror and a snapshot archive, all played."""

    def __init__(self, folder: Path, address: str, served: Path, names: list[str | None]) -> None:
        self.folder, self.address, self.served = folder, address, served
        self.names = names
        """What each request said of who sends it."""
        self.context = folder / "context"
        images = folder / "checkout" / "infra" / "images"
        shutil.copytree(IMAGES, images, ignore=shutil.ignore_patterns("*.lock", "__pycache__"))
        self.program, self.lock = images / "debian.py", images / "agent" / "debian" / "imaginary-amd64.lock"
        self.lock.write_text(LOCK)
        self.cache = folder / "checkout" / ".build" / "debian"
        (folder / "docker").write_text(PLAYED_DOCKER)
        (folder / "docker").chmod(0o755)
        self.play("facts", f"imaginary\namd64\nmirror {address}/debian\ndebian libc6:amd64 2.36\ndebian zlib1g 1\n")
        self.play("plan", "".join(f"'file:/tmp/debian/{path.replace('+', '%2b')}' x 1 SHA256:0\n" for path in DEBS))
        self.play("complaint", "")

    def play(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def serve(self, path: str, content: bytes) -> None:
        file = self.served / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    def fetch(self, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run("fetch", "a-base", str(self.context), **environment)

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": f"{self.folder}:{os.environ['PATH']}", "PLAYED": str(self.folder)}
        env |= {"DEBIAN_MIRROR": f"{self.address}/debian", "DEBIAN_SNAPSHOT": f"{self.address}/archive"} | environment
        command = [sys.executable, str(self.program), *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)

    def fetched(self) -> dict[str, bytes]:
        return {str(path.relative_to(self.context)): path.read_bytes() for path in self.context.rglob("*.deb")}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    served = tmp_path / "served"
    served.mkdir()

    names: list[str | None] = []

    class Played(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            names.append(self.headers["Authorization"])

    handler = functools.partial(Played, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield World(tmp_path, f"http://127.0.0.1:{server.server_port}", served, names)
        server.shutdown()


def test_a_build_gets_the_locked_files_and_what_the_image_must_have(world: World) -> None:
    for path, content in DEBS.items():
        world.serve(f"debian/{path}", content)
    done = world.fetch()
    assert done.returncode == 0, done.stderr
    assert world.fetched() == DEBS
    assert "2 Debian packages of imaginary-amd64.lock, 2 fetched now" in done.stderr
    expected = ["debian git 18", "debian libc6:amd64 2.36", "debian nodejs 18", "debian zlib1g 1"]
    assert (world.context / "expected").read_text().splitlines() == expected
    assert "nodejs" in (world.context / "wanted").read_text().split()
    assert "Filename: pool/main/g/git/" in (world.context / "Packages").read_text()


def test_what_the_mirror_dropped_comes_from_the_snapshot_of_the_locks_day_or_the_next(world: World) -> None:
    git, node = DEBS
    world.serve(f"archive/debian/20260102T030405Z/{git}", DEBS[git])
    world.serve(f"archive/debian-security/20260103T030405Z/{node}", DEBS[node])
    done = world.fetch()
    assert done.returncode == 0, done.stderr
    assert world.fetched() == DEBS


def test_another_file_than_the_locked_one_is_refused_wherever_it_comes_from(world: World) -> None:
    git, node = DEBS
    world.serve(f"debian/{node}", DEBS[node])
    world.serve(f"debian/{git}", b"another git")
    done = world.fetch()
    assert done.returncode == 3
    assert f"refused: {world.address}/debian/pool/main/g/git/" in done.stderr
    assert "no place has git 18" in done.stderr
    assert git not in world.fetched()
    assert not (world.cache / git).exists()
    world.serve(f"archive/debian/20260102T030405Z/{git}", DEBS[git])
    done = world.fetch()
    assert done.returncode == 0, done.stderr
    assert "refused: " in done.stderr
    assert world.fetched() == DEBS


def test_what_no_place_has_is_named_with_the_places_and_the_two_ways_out(world: World) -> None:
    done = world.fetch()
    assert done.returncode == 3
    assert "no place has git 18 as imaginary-amd64.lock wants it" in done.stderr
    assert f"{world.address}/debian/pool/main/g/git/git_2.1~x%2B1_amd64.deb: HTTP Error 404" in done.stderr
    assert f"{world.address}/archive/debian/20260102T030405Z/" in done.stderr
    assert "./just lock-debian" in done.stderr
    assert "DEBIAN_SNAPSHOT=https://" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_build_asks_nobody_and_a_damaged_file_is_fetched_again(world: World) -> None:
    for path, content in DEBS.items():
        world.serve(f"debian/{path}", content)
    assert world.fetch().returncode == 0
    shutil.rmtree(world.served / "debian")
    done = world.fetch(DEBIAN_MIRROR="http://127.0.0.1:1", DEBIAN_SNAPSHOT="http://127.0.0.1:1")
    assert done.returncode == 0, done.stderr
    assert "0 fetched now" in done.stderr
    assert world.fetched() == DEBS
    (world.cache / next(iter(DEBS))).write_bytes(b"damaged")
    assert world.fetch().returncode == 3
    world.serve(f"debian/{next(iter(DEBS))}", DEBS[next(iter(DEBS))])
    assert "1 fetched now" in world.fetch().stderr
    assert world.fetched() == DEBS


def test_a_release_without_a_lock_is_named_with_how_to_make_one(world: World) -> None:
    world.play("facts", "unheard-of\nriscv64\n")
    done = world.fetch()
    assert done.returncode == 3
    assert "the base a-base is unheard-of on riscv64" in done.stderr
    assert "there is: imaginary-amd64" in done.stderr
    assert "BASE_IMAGE=a-base ./just lock-debian" in done.stderr


def test_a_base_that_does_not_go_with_the_lock_is_told_in_apts_words(world: World) -> None:
    world.play("complaint", "perl : Depends: perl-base (= 5.36.0-7) but 5.36.0-8 is to be installed")
    done = world.fetch()
    assert done.returncode == 3
    assert "the packages that a-base has do not go with imaginary-amd64.lock" in done.stderr
    assert "perl-base (= 5.36.0-7) but 5.36.0-8" in done.stderr
    assert "2026-01-02" in done.stderr
    assert "BASE_IMAGE=a-base ./just lock-debian" in done.stderr


def test_a_base_that_is_no_debian_is_told(world: World) -> None:
    world.play("facts", "")
    done = world.fetch()
    assert done.returncode == 3
    assert "the base a-base is no Debian" in done.stderr


def test_the_password_of_a_mirror_is_sent_and_never_shown(world: World) -> None:
    done = world.fetch(DEBIAN_MIRROR=world.address.replace("//", "//me:hidden@") + "/debian")
    assert done.returncode == 3
    assert f"{world.address}/debian/pool" in done.stderr
    assert "hidden" not in done.stderr
    assert world.names[0] == "Basic " + base64.b64encode(b"me:hidden").decode()
    assert world.names[-1] is None, "the archive of snapshots is nobody to tell it to"


def test_a_lock_made_anew_says_what_changed_and_keeps_its_day_when_nothing_did(world: World) -> None:
    git, node = DEBS
    world.play("solved", stanza(node) + "Description: left out\n more of it\n\n" + stanza(git))
    done = world.run("lock", "a-base")
    assert done.returncode == 0, done.stderr
    assert "imaginary-amd64.lock: 2 packages, as before" in done.stderr
    assert world.lock.read_text() == LOCK
    world.play("solved", stanza(git, version="19"))
    done = world.run("lock", "a-base")
    assert "git 18 -> 19" in done.stderr
    assert "nodejs 18 -> gone" in done.stderr
    assert world.lock.read_text().splitlines()[3:] == stanza(git, version="19").splitlines()
    assert re.search(r"^# Taken: \d{8}T\d{6}Z$", world.lock.read_text(), re.MULTILINE)
    assert "20260102T030405Z" not in world.lock.read_text()


@pytest.mark.parametrize("lock", sorted((IMAGES / "agent" / "debian").glob("*.lock")), ids=lambda path: path.stem)
def test_every_lock_pins_what_is_wanted_by_version_place_and_hash(lock: Path) -> None:
    lines = (IMAGES / "agent" / "debian" / "packages.in").read_text().splitlines()
    head, *stanzas = lock.read_text().strip().split("\n\n")
    assert re.search(r"^# Taken: \d{8}T\d{6}Z$", head, re.MULTILINE)
    found = [dict(line.split(": ", 1) for line in each.splitlines()) for each in stanzas]
    names = [each["Package"] for each in found]
    assert names == sorted(set(names))
    assert {line for line in lines if line and not line.startswith("#")} <= set(names)
    for each in found:
        assert each["Architecture"] in ("all", lock.stem.split("-")[1])
        assert re.fullmatch(r"[0-9a-f]{64}", each["SHA256"])
        assert int(each["Size"]) > 0
        version = each["Version"].split(":")[-1]
        assert each["Filename"].startswith("pool/")
        assert each["Filename"].endswith(f"/{each['Package']}_{version}_{each['Architecture']}.deb")
