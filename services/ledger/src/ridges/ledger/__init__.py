"""Ridges ledger: runs, token usage and costs, computed from the log."""
