"""``python -m autoperm``."""

from autoperm.cli import main

if __name__ == "__main__":
    main()
