"""Where the log is and who asks."""

import re
from urllib.parse import urlsplit

import msgspec

from ridges.chassis.jetstream.inboxes import inbox_prefix
from ridges.chassis.jetstream.streams import RECORDED_HERE


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A server of the log, or several, and the user."""

    url: str
    name: str
    monitor_url: str | None = None
    user: str | None = None
    password: str | None = None
    allow_lossy: bool = False
    log_of_record: str = RECORDED_HERE
    log_epoch: str | None = None
    """The log must have this epoch; default: any, as long as it stays the same."""

    @property
    def address(self) -> str:
        """The URL without credentials."""
        return without_credentials(self.url)

    @property
    def inbox_prefix(self) -> str:
        """Of the user, also where the URL names him."""
        return inbox_prefix(self.user or urlsplit(self.url.split(",")[0].strip()).username)


def without_credentials(url: str) -> str:
    """For messages, and for what is stored where others read."""
    return re.sub(r"(^|,|://)[^/@,]*@", r"\1", url)
