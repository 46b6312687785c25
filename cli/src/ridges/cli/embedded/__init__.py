"""The embedded system: nats-server and the four services as processes of one machine, state in ``.ridges/``."""
