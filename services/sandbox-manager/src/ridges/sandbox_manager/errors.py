"""What goes wrong in the sandbox-manager."""


class SandboxManagerError(Exception):
    """Root of this package's errors."""


class SandboxUnavailable(SandboxManagerError):
    """No sandbox can be started on this machine as it is. Try again later, or mend the machine."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason, self.remedy = reason, remedy


class ImageMissing(SandboxManagerError):
    """The sandbox image is not on this machine. It is never pulled while a run waits."""

    def __init__(self, image: str, remedy: str) -> None:
        super().__init__(f"the sandbox image {image} is not on this machine; {remedy}")
        self.image, self.remedy = image, remedy


class SandboxFailed(SandboxManagerError):
    """A sandbox was started but broke, or what came out of it was no result. The run may be tried again."""

    def __init__(self, run_id: str, reason: str) -> None:
        super().__init__(f"run {run_id}: the sandbox broke: {reason}")
        self.run_id, self.reason = run_id, reason


class LimitsRefused(SandboxManagerError):
    """The run asks for more than the operator of this machine allows. Trying again does not help."""

    def __init__(self, run_id: str, over: str) -> None:
        super().__init__(
            f"run {run_id} asks for what this machine does not allow: {over}; ask for less, or its operator"
        )
        self.run_id, self.over = run_id, over


class SettingRefused(SandboxManagerError):
    """A setting can never work here. The process ends with exit code 2."""

    def __init__(self, variable: str, problem: str) -> None:
        super().__init__(f"{variable}: {problem}")
        self.variable, self.problem = variable, problem


class StateDirTaken(SandboxManagerError):
    """Another sandbox-manager runs with this state directory."""

    def __init__(self, state_dir: str) -> None:
        super().__init__(f"another sandbox-manager uses {state_dir}; stop it, or set another RIDGES_STATE_DIR")


class ProxyFailed(SandboxManagerError):
    """The run's proxy did not start. The run may be tried again."""

    def __init__(self, run_id: str, problem: str) -> None:
        super().__init__(f"run {run_id}: the sandbox proxy did not start: {problem}")
        self.run_id, self.problem = run_id, problem


class Overtaken(SandboxManagerError):
    """The run ended or a newer attempt began while this one was on its way: its result is void."""

    def __init__(self, run_id: str, attempt: int, state: str) -> None:
        super().__init__(f"run {run_id}: attempt {attempt} was overtaken (the run is {state}); its result is dropped")
        self.run_id, self.attempt = run_id, attempt
