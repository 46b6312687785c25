"""Ridges gateway: one metered inference API in front of many language-model providers."""
