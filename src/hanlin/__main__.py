"""The command `hanlin`, which is `python -m hanlin` too."""

from __future__ import annotations

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    # `-m` has put the working folder first: a `random.py` beside the data would be imported. What Python itself imports
    # before this line can only be kept from there by `python -P -m hanlin`.
    del sys.path[0]

import _signal  # what `signal` wraps; that one imports `enum` and `re`, which takes longer than all else here


def main() -> None:
    """The console script: until the command can end in order, Ctrl-C ends it without a traceback."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    try:
        from hanlin.cli.main import main as run
    except ImportError as error:  # not even what commands are made of is here
        from hanlin.core.errors import explain_import_error

        known = explain_import_error(error)
        if known is None:
            raise
        known.hint = "pip install hanlin"
        print(known, file=sys.stderr)
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()
