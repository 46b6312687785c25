"""What the services share: events, faults, money, subjects and the run token. Depends on msgspec only."""
