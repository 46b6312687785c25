from dataclasses import dataclass


@dataclass
class Stats:
    hits: int = 0
    misses: int = 0
    expired: int = 0
    """Entries that were cleared because their time was up."""
    evicted: int = 0
    """Live entries that had to make room."""
