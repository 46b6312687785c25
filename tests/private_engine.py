"""A Docker Engine of the tests' own, to be killed: the machine's engine, its images and its bridge are left alone."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import psutil
import pytest
from docker_images import AGENT_IMAGE, need_agent_image

START_S = 120


def need_private_engine() -> None:
    """Skips where none can be started."""
    need_agent_image()
    if os.geteuid() != 0:
        pytest.skip("only root can start a Docker Engine")
    for program in ("dockerd", "unshare"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: no Docker Engine of one's own")


class PrivateEngine:
    """In namespaces of its own: two engines in one network take the bridge from each other, and mounts end with it."""

    def __init__(self, folder: Path, runtimes: Mapping[str, tuple[str, ...]] | None = None) -> None:
        """``runtimes``: name -> the program and its arguments, beside runc."""
        self._folder = folder
        known = {name: {"path": path, "runtimeArgs": args} for name, (path, *args) in (runtimes or {}).items()}
        (folder / "daemon.json").write_text(json.dumps({"runtimes": known}))
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{folder}/engine.sock"

    def __enter__(self) -> Self:
        self.start()
        try:
            self.take(AGENT_IMAGE)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGTERM)
        for process in psutil.process_iter(["cmdline"]):  # of an engine that did not come back
            if str(self._folder) in " ".join(process.info["cmdline"] or ()):
                process.kill()
        shutil.rmtree(self._folder / "data", ignore_errors=True)

    def start(self) -> None:
        """Returns when it answers."""
        (self._folder / "engine.pid").unlink(missing_ok=True)
        options = ["--config-file", f"{self._folder}/daemon.json", "--data-root", f"{self._folder}/data"]
        options += ["--exec-root", f"{self._folder}/exec"]
        options += ["--pidfile", f"{self._folder}/engine.pid", "-H", self.url, "--bridge", "none", "--iptables=false"]
        with (self._folder / "engine.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["unshare", "--net", "--mount", "dockerd", *options], stdout=log, stderr=log, start_new_session=True
            )
        give_up_at = time.monotonic() + START_S
        while self._answers().returncode:
            assert self._process.poll() is None, self.words()
            assert time.monotonic() < give_up_at, self.words()
            time.sleep(0.2)

    def end(self, number: signal.Signals) -> None:
        """Returns when it is gone."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(number)
        try:
            self._process.wait(START_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._end_containerd()

    def _end_containerd(self) -> None:
        """Of an engine that was killed: the next one would wait for it in vain, even when it is but a zombie."""
        pid_file = self._folder / "exec" / "containerd" / "containerd.pid"
        if pid_file.exists():
            with contextlib.suppress(psutil.NoSuchProcess):
                containerd = psutil.Process(int(pid_file.read_text()))
                if containerd.name() == "containerd":
                    containerd.kill()
            pid_file.unlink()

    def take(self, image: str) -> None:
        """The image, from the machine's engine."""
        with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as save:
            subprocess.run(["docker", "-H", self.url, "load", "-q"], stdin=save.stdout, capture_output=True, check=True)
        assert save.returncode == 0

    def containers(self) -> list[str]:
        """Ids of all that it has, dead or alive."""
        return self.ask("ps", "-aq").split()

    def ask(self, *args: str) -> str:
        done = subprocess.run(["docker", "-H", self.url, *args], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def words(self) -> str:
        return (self._folder / "engine.log").read_text()[-4000:]

    def _answers(self) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(["docker", "-H", self.url, "version"], capture_output=True, check=False)
