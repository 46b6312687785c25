"""Ridges command line and embedded system."""
