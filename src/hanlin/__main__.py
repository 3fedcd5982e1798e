"""`python -m hanlin` is the command `hanlin`."""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    # `-m` has put the working folder first: a `random.py` beside the data would be imported. What Python itself imports
    # before this line can only be kept from there by `python -P -m hanlin`.
    del sys.path[0]

from hanlin.cli.main import main

if __name__ == "__main__":
    main()
