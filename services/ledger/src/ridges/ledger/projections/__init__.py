"""The read side: events folded into SQLite tables, with the checkpoint in the same transaction."""
