"""Ridges sandbox-manager: runs untrusted agents in sandboxes whose only way out is the gateway."""
