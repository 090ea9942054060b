"""`firstboot.pyz run` (the service), `early` (before dockerd), `import`: arguments, exit codes."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from typing import Iterator, Optional, Sequence

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
    """Before each start of dockerd: the clock's floor, a member's address, torn state files.

    In this order, and whatever fails is told and keeps nothing else from being done: a full disk
    resists only the last. Gives 0.
    """
    config, pem = None, b""
    with _telling():
        config = _description(layout)
    with _telling():
        pem = files.read(os.path.join(layout.docker, NODE_CERTIFICATE), limit=MAX_PEM) or b""
    certified = swarmview.not_before(pem)
    if config is not None:
        with _telling():
            _raise_clock(layout, config, certified=certified)
    if config is not None and certified:
        _raise_address(config)
    for name in repair.suspects(layout.docker):
        with _telling():
            if repair.mend(layout.docker, name, address=config.address if config else ""):
                log("early: %s was torn; it is kept as %s.broken" % (name, name))
    return 0


@contextlib.contextmanager
def _telling() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        log("early: %s" % files.in_words(error))


def _description(layout: Layout) -> Optional[NodeConfig]:
    content = files.read(layout.node_json, limit=nodeconfig.MAX_BYTES)
    try:
        return None if content is None else nodeconfig.parse(content.decode("utf-8"))
    except ValueError as error:
        log("early: %s: %s" % (layout.node_json, error))
        return None


def _raise_clock(layout: Layout, config: NodeConfig, *, certified: float) -> None:
    timekeeper = Timekeeper(root=layout.root, tick=layout.tick, flashed_at=float(config.flashed_at))
    if timekeeper.raise_to_floor(certified=certified):
        log("early: the clock was behind; it is at its floor now")


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
