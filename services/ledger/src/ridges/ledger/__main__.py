"""``python -m ridges.ledger``."""

from ridges.ledger.app import main

if __name__ == "__main__":
    main()
