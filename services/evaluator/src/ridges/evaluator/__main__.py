"""``python -m ridges.evaluator``."""

from ridges.evaluator.app import main

if __name__ == "__main__":
    main()
