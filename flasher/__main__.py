"""The `piflash` program: standard streams made sure of, then flasher.cli. Decides nothing."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper

INTERRUPTED = 130


def main() -> None:
    """Run the command line and exit with its code."""
    _open_streams()
    try:
        # Here, because a Ctrl-C during the imports is an interrupt like any other.
        from flasher import cli

        code = cli.run(sys.argv[1:])
    except KeyboardInterrupt:
        code = INTERRUPTED
    _let_go_of_stderr()
    sys.exit(code)


def _open_streams() -> None:
    """Have all three streams, and none that fails on a character (`<&-`, `LC_ALL=C`)."""
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123 - for the whole run
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _let_go_of_stderr() -> None:
    """Keep the exit code: Python makes it 120 if its last flush of a stream fails."""
    try:
        sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


if __name__ == "__main__":
    main()
