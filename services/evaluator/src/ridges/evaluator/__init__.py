"""Ridges evaluator: judges patches by hidden tests in a fresh sandbox."""
