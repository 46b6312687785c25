"""``python -m ridges.sandbox_manager``."""

from ridges.sandbox_manager.app import main

if __name__ == "__main__":
    main()
