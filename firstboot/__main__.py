"""`python3 firstboot.pyz run` (the service) or `import` (once): arguments and exit codes only."""

from __future__ import annotations

import argparse
import sys
from typing import Optional, Sequence

from firstboot import importer, service
from firstboot.importer import CardError
from firstboot.layout import Layout


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one command; give 0, or 1 if the card does not hold a usable identity."""
    args = _parser().parse_args(argv)
    layout = Layout(boot=args.boot, root=args.root)
    if args.command == "run":
        return service.run(layout)
    try:
        card = importer.import_card(layout)
    except (CardError, OSError) as error:
        service.log("import: %s; %s" % (error, getattr(error, "remedy", "try again")))
        return 1
    for path in card.left:
        service.log("import: identity still on the boot partition: " + path)
    service.log("import: %s, generation %d" % (card.config.name, card.config.generation))
    return 1 if card.left else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="firstboot.pyz", description="The service of a piflash node."
    )
    parser.add_argument("command", choices=("run", "import"))
    parser.add_argument("--boot", default="/boot", help="where the boot partition is mounted")
    parser.add_argument("--root", default="/", help="the root file system")
    return parser


if __name__ == "__main__":
    sys.exit(main())
