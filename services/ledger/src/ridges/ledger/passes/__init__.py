"""Passes over the whole log, each in a process of its own: rebuild, verify, archive, restore, migrate."""
