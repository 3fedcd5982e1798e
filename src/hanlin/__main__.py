"""`python -m hanlin` is the command `hanlin`."""

from hanlin.cli.main import main

if __name__ == "__main__":
    main()
