"""`python -m flasher` is `piflash`."""

from flasher.cli import main

main()
