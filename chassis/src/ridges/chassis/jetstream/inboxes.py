"""Where a user of the NATS server gets answers: each of our services at its own place, where no other listens."""

from ridges.contracts.flows import FLOWS

RELAY = "relay"
"""The user that writes the mirror of KurrentDB."""
SHARED_INBOX = "_INBOX"
"""Prefix of every NATS client that names no other."""


def inbox_prefix(user: str | None) -> str:
    """Without the dot at its end; the user's permissions are written with it."""
    return f"{SHARED_INBOX}_{user}" if user in FLOWS or user == RELAY else SHARED_INBOX
