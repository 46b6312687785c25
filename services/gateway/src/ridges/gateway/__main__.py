"""``python -m ridges.gateway``."""

from ridges.gateway.app import main

if __name__ == "__main__":
    main()
