"""``python -m proxy`` is the same as ``backstop``."""

from proxy.cli import main

if __name__ == "__main__":
    main()
