from hotshelf.clock import ManualClock, RealClock
from hotshelf.loading import LoadingShelf
from hotshelf.shelf import MISSING, Shelf
from hotshelf.stats import Stats

__all__ = ["MISSING", "LoadingShelf", "ManualClock", "RealClock", "Shelf", "Stats"]
