"""The whole log, from one store to another: what both sides must offer (``ports``), and both sides of each store."""
