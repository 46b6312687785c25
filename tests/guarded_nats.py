"""A nats-server with the users that we ship. Each one's password is made of its name."""

from pathlib import Path

from nats_process import NatsServer

from ridges.chassis.jetstream.permissions import ADMIN, LogOfRecord, nats_conf, password_variable, users


def password_of(user: str) -> str:
    return f"password-of-{user}"


def login(user: str) -> dict[str, str]:
    return {"user": user, "password": password_of(user)}


def service_login(user: str) -> dict[str, str]:
    """The settings of a service's process."""
    return {"RIDGES_NATS_USER": user, "RIDGES_NATS_PASSWORD": password_of(user)}


class GuardedServer(NatsServer):
    """See the module."""

    def __init__(self, folder: Path, log_of_record: LogOfRecord = "jetstream", *, anonymous: bool = True) -> None:
        super().__init__(folder)
        self._log_of_record, self._anonymous = log_of_record, anonymous

    def configuration(self) -> str:
        return nats_conf(
            listen=f"127.0.0.1:{self.port}",
            monitor=f"127.0.0.1:{self.monitor_port}",
            store_dir=f"{self.folder}/store",
            log_of_record=self._log_of_record,
            anonymous=self._anonymous,
        )

    def environment(self) -> dict[str, str]:
        return {password_variable(user.name): password_of(user.name) for user in users(self._log_of_record)}

    async def migrate(self, **options) -> None:
        await super().migrate(**{**login(ADMIN), **options})
