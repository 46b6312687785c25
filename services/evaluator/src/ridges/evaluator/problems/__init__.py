"""Problem folders: reading them, packing them, understanding their formats."""
