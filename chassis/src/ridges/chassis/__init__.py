"""What every service needs and no domain word: event store, blobs, settings, logs, health, serving."""
