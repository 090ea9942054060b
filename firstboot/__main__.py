"""`firstboot.pyz run` (the service), `early` (before dockerd), `import`: arguments, exit codes."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Optional, Sequence

from firstboot import address, files, importer, nodeconfig, repair, service, swarmview
from firstboot.address import AddressError
from firstboot.clock import Timekeeper
from firstboot.importer import CardError
from firstboot.layout import Layout
from firstboot.node import MAX_PEM, NODE_CERTIFICATE
from firstboot.nodeconfig import NodeConfig
from firstboot.teller import log


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one command; give 0, or 1 if the card does not hold a usable identity."""
    args = _parser().parse_args(argv)
    layout = Layout(boot=args.boot, root=args.root)
    if args.command == "run":
        return service.run(layout)
    if args.command == "early":
        return early(layout)
    try:
        card = importer.import_card(layout)
    except (CardError, OSError) as error:
        log("import: %s; %s" % (error, getattr(error, "remedy", "try again")))
        return 1
    for path in card.left:
        log("import: identity still on the boot partition: " + path)
    log("import: %s, generation %d" % (card.config.name, card.config.generation))
    return 1 if card.left else 0


def early(layout: Layout) -> int:
    """Before each start of dockerd: torn state files, the clock's floor, a member's address."""
    content = files.read(layout.node_json, limit=nodeconfig.MAX_BYTES)
    try:
        config = None if content is None else nodeconfig.parse(content.decode("utf-8"))
    except ValueError as error:
        log("early: %s: %s" % (layout.node_json, error))
        config = None
    for name in repair.put_aside(layout.docker, address=config.address if config else ""):
        log("early: %s was torn; it is kept as %s.broken" % (name, name))
    if config is None:
        return 0
    timekeeper = Timekeeper(root=layout.root, tick=layout.tick, flashed_at=float(config.flashed_at))
    pem = files.read(os.path.join(layout.docker, NODE_CERTIFICATE), limit=MAX_PEM) or b""
    certified = swarmview.not_before(pem)
    if timekeeper.raise_to_floor(certified=certified):
        log("early: the clock was behind; it is at its floor now")
    if certified:
        _raise_address(config)
    return 0


def _raise_address(config: NodeConfig) -> None:
    """Of a member of a swarm: without it dockerd finds no manager and waits 20 s (facts S2)."""
    try:
        if not address.is_up(config.address, interface=config.interface):
            address.bring_up(config.address, subnet=config.subnet, interface=config.interface)
    except AddressError as error:
        log("early: %s" % error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="firstboot.pyz", description="The service of a piflash node."
    )
    parser.add_argument("command", choices=("run", "early", "import"))
    parser.add_argument("--boot", default="/boot", help="where the boot partition is mounted")
    parser.add_argument("--root", default="/", help="the root file system")
    return parser


if __name__ == "__main__":
    sys.exit(main())
