"""LiteLLM proxy and Portkey, installed into a scratch folder where the package registries can be reached."""

import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
from contenders import NotMeasured, SimpleServer

# Pinned: figures stay comparable, and no compromised release is fetched by chance (litellm had some).
LITELLM = "litellm[proxy]==1.102.4"
PORTKEY = "@portkey-ai/gateway@1.15.2"
INSTALL_TIMEOUT_S = 900


class LiteLlm(SimpleServer):
    """``litellm --config``: no database, no keys, no logging; cost is computed in memory."""

    def __init__(self, folder: Path, installs: Path, provider_url: str) -> None:
        super().__init__("LiteLLM", folder)
        self._venv, self._provider_url = installs / "litellm", provider_url
        self.described = f"{LITELLM}, one worker, no database, no keys, no callbacks"

    def prepare(self) -> None:
        if not (self._venv / "bin" / "litellm").exists():
            install([sys.executable, "-m", "venv", str(self._venv)], self._venv)
            install([str(self._venv / "bin" / "python"), "-m", "pip", "install", "--quiet", LITELLM], self._venv)
        config = {
            "model_list": [
                {
                    "model_name": "mock",
                    "litellm_params": {"model": "openai/mock", "api_base": self._provider_url, "api_key": "sk-bench"},
                }
            ],
            "litellm_settings": {"telemetry": False, "num_retries": 0, "request_timeout": 600},
        }
        (self.folder / "config.yaml").write_bytes(msgspec.json.encode(config))

    def start(self) -> None:
        command = [str(self._venv / "bin" / "litellm"), "--config", "config.yaml", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--num_workers", "1", "--telemetry", "False"]
        quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "NO_DOCS": "True", "DO_NOT_TRACK": "1"}
        self.pid = self.process.start(command, quiet)


class Portkey(SimpleServer):
    """The open-source gateway of Portkey."""

    def __init__(self, folder: Path, installs: Path, provider_url: str) -> None:
        super().__init__("Portkey", folder)
        self._prefix = installs / "portkey"
        self.described = f"{PORTKEY}, one node process"
        self.headers = [
            "x-portkey-provider: openai",
            f"x-portkey-custom-host: {provider_url}",
            "Authorization: Bearer sk-bench",
        ]

    def prepare(self) -> None:
        if shutil.which("node") is None or shutil.which("npm") is None:
            raise NotMeasured("node and npm are not on PATH")
        if not self._server.exists():
            options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
            install(["npm", "install", "--prefix", str(self._prefix), *options, PORTKEY], self._prefix)

    def start(self) -> None:
        self.pid = self.process.start(["node", str(self._server), f"--port={self.port}", "--headless"], {})

    @property
    def _server(self) -> Path:
        return self._prefix / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"


def install(command: list[str], folder: Path) -> None:
    """Raises NotMeasured with the installer's last words; what was half installed is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        told = f"not installed within {INSTALL_TIMEOUT_S} s"
    except subprocess.CalledProcessError as error:
        told = (error.stderr or error.stdout or str(error)).strip()[-300:]
    else:
        return
    shutil.rmtree(folder, ignore_errors=True)
    raise NotMeasured(f"installation failed: {' '.join(command[:4])} …: {told}")
