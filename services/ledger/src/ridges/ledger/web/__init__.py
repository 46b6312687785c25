"""The web page: rendered on the server, no script, nothing trusted."""
