"""The HTTP API: thin routes over handlers and queries."""
