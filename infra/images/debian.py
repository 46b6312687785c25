"""Debian's packages of the agent image: locked by version and SHA256, fetched before the build, which has no network.

usage: debian.py lock BASE [ARCHITECTURE]    writes the lock of the base's release from the lists of its mirrors
       debian.py fetch BASE FOLDER           puts what BASE lacks of its lock into FOLDER, for the build

A lock is an index of packages as apt reads it: with it apt solves dependencies on any base, and finds nothing else.
Environment of fetch: DEBIAN_MIRROR (addresses) is asked instead of the base's mirrors and deb.debian.org;
DEBIAN_SNAPSHOT (default snapshot.debian.org) for what they dropped.
"""

import base64
import datetime as dt
import hashlib
import http.client
import io
import os
import shutil
import subprocess
import sys
import tarfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

RECIPE = Path(__file__).parent / "agent" / "debian"
CACHE = Path(__file__).parents[2] / ".build" / "debian"
ARCHIVES = ("http://deb.debian.org/debian", "http://deb.debian.org/debian-security")
SNAPSHOT = "https://snapshot.debian.org/archive"
FIELDS = (
    *("Package", "Version", "Architecture", "Multi-Arch", "Essential", "Pre-Depends", "Depends", "Provides"),
    *("Breaks", "Conflicts", "Replaces", "Filename", "Size", "SHA256"),
)
"""What apt needs to solve dependencies, and what tells one file from another."""
HEAD = "# Debian's packages of the agent image; `./just lock-debian` writes this."
TAKEN, STAMP = "# Taken: ", "%Y%m%dT%H%M%SZ"
ANSWER_S = 60
FACTS = r"""
. /etc/os-release && echo "${VERSION_CODENAME:-none}" && dpkg --print-architecture
apt-get indextargets -o APT::Get::IndexTargets::ReleaseInfo=false --format 'mirror $(SITE)' | sort -u
dpkg-query -W -f 'debian ${binary:Package} ${Version}\n'
"""
PLAN = "mkdir /tmp/debian && tar -x -C /tmp/debian && sh /tmp/debian/install.sh --print-uris"
# As if nothing were installed: one lock for all bases of a release. usr-is-merged spares those that would merge /usr.
SOLVE = r"""
set -eu
set_up="-q -o APT::Architecture=$1 -o APT::Architectures=$1 -o Dir::State::status=/tmp/nothing"
shift
: >/tmp/nothing
apt() { "$@" $set_up; }
apt apt-get update -o APT::Update::Error-Mode=any >/dev/null
apt apt-get install --simulate --no-install-recommends usr-is-merged "$@" >/tmp/solved ||
    { tail /tmp/solved >&2; exit 1; }
apt apt-cache show $(sed -n 's/^Inst \([^ :]*\)[^ ]* (\([^ ]*\) .*/\1=\2/p' /tmp/solved)
"""


class RefusedError(Exception):
    """The message says what is amiss, and what to do next."""


Stanza = dict[str, str]
"""A package: values of ``FIELDS``."""


def read_stanzas(text: str) -> list[Stanza]:
    """Those of an index. Long fields that go on in further lines are none of ours."""
    blocks = (block.splitlines() for block in text.split("\n\n"))
    found = [dict(line.split(": ", 1) for line in block if line[:1].isalpha() and ": " in line) for block in blocks]
    return [{field: stanza[field] for field in FIELDS if field in stanza} for stanza in found if stanza]


def index(stanzas: list[Stanza]) -> str:
    return "\n\n".join("\n".join(f"{field}: {value}" for field, value in stanza.items()) for stanza in stanzas) + "\n"


def wanted() -> list[str]:
    lines = (RECIPE / "packages.in").read_text("utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@dataclass(frozen=True)
class Lock:
    """The file of one release and architecture."""

    path: Path
    taken_at: dt.datetime
    stanzas: list[Stanza]

    @classmethod
    def read(cls, path: Path) -> "Lock":
        text = path.read_text("utf-8")
        taken = next(line.removeprefix(TAKEN) for line in text.splitlines() if line.startswith(TAKEN))
        taken_at = dt.datetime.strptime(taken, STAMP).replace(tzinfo=dt.UTC)
        return cls(path, taken_at, read_stanzas(text))

    def write(self) -> None:
        head = f"{HEAD}\n{TAKEN}{self.taken_at:{STAMP}}"
        self.path.write_text(f"{head}\n\n{index(self.stanzas)}", "utf-8")


@dataclass(frozen=True)
class Base:
    """What an image tells of itself."""

    image: str
    codename: str
    architecture: str
    mirrors: list[str]
    installed: list[str]
    """Lines as the agent image lists them: debian NAME VERSION"""

    @classmethod
    def ask(cls, image: str) -> "Base":
        try:
            codename, architecture, *lines = in_image(image, FACTS).splitlines()
        except (subprocess.CalledProcessError, ValueError) as error:
            said = getattr(error, "stderr", "")
            raise RefusedError(f"the base {image} is no Debian with apt and dpkg: {said}") from error
        mirrors = [line.removeprefix("mirror ") for line in lines if line.startswith("mirror http")]
        mirrors = os.environ.get("DEBIAN_MIRROR", "").split() or list(dict.fromkeys((*mirrors, *ARCHIVES)))
        return cls(image, codename, architecture, mirrors, [line for line in lines if line.startswith("debian ")])

    def lock_path(self, architecture: str = "") -> Path:
        return RECIPE / f"{self.codename}-{architecture or self.architecture}.lock"


def in_image(image: str, script: str, *arguments: str, given: bytes = b"", network: str = "none") -> str:
    """What a shell script says as root in a container of the image.

    Raises:
        CalledProcessError: with what it complained of.
    """
    options = ("--rm", "--interactive", "--network", network, "--user", "0", "--entrypoint", "sh")
    command = ["docker", "run", *options, image, "-c", script, "sh", *arguments]
    done = subprocess.run(command, input=given, capture_output=True, check=False)
    if done.returncode:
        told, complaint = (stream.decode(errors="replace").strip() for stream in (done.stdout, done.stderr))
        raise subprocess.CalledProcessError(done.returncode, command[:2], told, complaint)
    return done.stdout.decode()


def renew(image: str, architecture: str) -> None:
    """Writes a lock and says what it changed."""
    base = Base.ask(image)
    architecture = architecture or base.architecture
    path, now = base.lock_path(architecture), dt.datetime.now(dt.UTC)
    try:
        told = in_image(image, SOLVE, architecture, *wanted(), network="host")
    except subprocess.CalledProcessError as error:
        raise RefusedError(
            f"apt in {image} could not solve {' '.join(wanted())}:\n{error.stderr}\n"
            "mend: the sources of this base must be reached and have these packages; BASE_IMAGE names another base"
        ) from error
    old = Lock.read(path).stanzas if path.exists() else []
    new = sorted(read_stanzas(told), key=lambda each: each["Package"])
    before, after = ({each["Package"]: each["Version"] for each in stanzas} for stanzas in (old, new))
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            say(f"{name} {before.get(name, 'new')} -> {after.get(name, 'gone')}")
    if new != old:
        Lock(path, now, new).write()
    say(f"{path.name}: {len(new)} packages" + ("" if new != old else ", as before"))


def fetch(image: str, folder: Path) -> None:
    """Makes a small archive of what the image lacks, and ``expected``: all packages that the built image must have."""
    base = Base.ask(image)
    path = base.lock_path()
    if not path.exists():
        known = ", ".join(sorted(each.stem for each in RECIPE.glob("*.lock")))
        raise RefusedError(
            f"the base {image} is {base.codename} on {base.architecture}, and there is no lock of Debian's packages "
            f"for that (there is: {known}); mend: make one: BASE_IMAGE={image} ./just lock-debian"
        )
    lock = Lock.read(path)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(RECIPE / "install.sh", folder)
    (folder / "wanted").write_text("\n".join(wanted()) + "\n")
    (folder / "Packages").write_text(index(lock.stanzas), "utf-8")
    missing = plan(base, lock, folder)
    fetched = sum(obtain(stanza, folder, list(places(base, lock, stanza)), lock) for stanza in missing)
    (folder / "expected").write_text("".join(f"{line}\n" for line in expected(base, missing)))
    say(f"{len(missing)} Debian packages of {path.name}, {fetched} fetched now; the base has the others")


def plan(base: Base, lock: Lock, folder: Path) -> list[Stanza]:
    """The locked packages that apt would install in the base."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(folder, ".")
    try:
        told = in_image(base.image, PLAN, given=packed.getvalue())
    except subprocess.CalledProcessError as error:
        told = error.stdout.rpartition("help to resolve the situation:")[2].strip()
        raise RefusedError(
            f"the packages that {base.image} has do not go with {lock.path.name}:\n{told}\n{error.stderr}\n"
            f"mend: take a base of the lock's day ({lock.taken_at:%Y-%m-%d}), by its digest; "
            f"or make the lock anew: BASE_IMAGE={base.image} ./just lock-debian"
        ) from error
    files = [urllib.parse.unquote(line.split("'")[1]) for line in told.splitlines() if line.startswith("'")]
    return [stanza for stanza in lock.stanzas if any(file.endswith("/" + stanza["Filename"]) for file in files)]


def places(base: Base, lock: Lock, stanza: Stanza) -> Iterator[str]:
    """Addresses of its file, mirrors first. A snapshot may be a day behind the mirror that the lock is from."""
    path = urllib.parse.quote(stanza["Filename"])
    for mirror in base.mirrors:
        yield f"{mirror.rstrip('/')}/{path}"
    archive = "debian-security" if path.startswith("pool/updates/") else "debian"
    for days in (0, 1):
        stamp = (lock.taken_at + dt.timedelta(days=days)).strftime(STAMP)
        yield f"{os.environ.get('DEBIAN_SNAPSHOT', SNAPSHOT).rstrip('/')}/{archive}/{stamp}/{path}"


def obtain(stanza: Stanza, folder: Path, addresses: list[str], lock: Lock) -> bool:
    """Puts the package's file into the folder; whether it had to be fetched."""
    kept, target = CACHE / stanza["Filename"], folder / stanza["Filename"]
    known = kept.is_file() and is_locked(kept.read_bytes(), stanza)
    if not known:
        content = download(stanza, addresses, lock)
        kept.parent.mkdir(parents=True, exist_ok=True)
        new = kept.with_name(f"{kept.name}.{os.getpid()}")
        new.write_bytes(content)
        new.replace(kept)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(kept, target)
    return not known


def download(stanza: Stanza, addresses: list[str], lock: Lock) -> bytes:
    trouble = []
    for address in addresses:
        shown, request = request_of(address)
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:  # noqa: S310 - http of mirrors; compared below
                content: bytes = answer.read(int(stanza["Size"]) + 1)
        except (OSError, http.client.HTTPException) as error:
            trouble.append(f"  {shown}: {error}")
            continue
        if is_locked(content, stanza):
            return content
        say(f"refused: {shown} is not the locked file (its SHA256 is {hashlib.sha256(content).hexdigest()})")
        trouble.append(f"  {shown}: not the locked file")
    name, asked = f"{stanza['Package']} {stanza['Version']}", "\n".join(trouble)
    raise RefusedError(
        f"no place has {name} as {lock.path.name} wants it:\n{asked}\n"
        f"mend: make the lock anew from what mirrors have now (./just lock-debian), or name an archive that keeps old "
        f"versions: DEBIAN_SNAPSHOT={SNAPSHOT} or a copy of it"
    )


def is_locked(content: bytes, stanza: Stanza) -> bool:
    return hashlib.sha256(content).hexdigest() == stanza["SHA256"]


def request_of(address: str) -> tuple[str, urllib.request.Request]:
    """The address to show, and a request that carries the name and password that it may hold."""
    parts = urllib.parse.urlsplit(address)
    user, _, host = parts.netloc.rpartition("@")
    shown = parts._replace(netloc=host).geturl()
    basic = base64.b64encode(urllib.parse.unquote(user).encode()).decode()
    return shown, urllib.request.Request(shown, headers={"Authorization": f"Basic {basic}"} if user else {})  # noqa: S310


def expected(base: Base, missing: list[Stanza]) -> list[str]:
    """What the built image's list of Debian's packages must be: the base's, and the locked ones that it lacked."""
    lines = {line.split(" ")[1]: line for line in base.installed}
    for stanza in missing:
        same = stanza.get("Multi-Arch") == "same"
        name = f"{stanza['Package']}:{stanza['Architecture']}" if same else stanza["Package"]
        lines[name] = f"debian {name} {stanza['Version']}"
    return sorted(lines.values())


def say(text: str) -> None:
    print(f"images: {text}", file=sys.stderr)  # noqa: T201


def main(arguments: list[str]) -> int:
    try:
        match arguments:
            case ["lock", image, *architecture]:
                renew(image, "".join(architecture))
            case ["fetch", image, folder]:
                fetch(image, Path(folder))
            case _:
                say((__doc__ or "").split("\n\n")[1])
                return 2
    except RefusedError as refused:
        say(str(refused))
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
