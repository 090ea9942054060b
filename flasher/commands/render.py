"""`piflash render`: the exact files of a node's seed, in a directory, secrets masked."""

from __future__ import annotations

import argparse
import os
import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path

from flasher import ownership, seed
from flasher.commands import seeds
from flasher.commands.project import Project
from flasher.commands.ui import Ui
from flasher.errors import UsageError
from flasher.model import NodeSpec, Ticket

# Rendering needs no image: a line that has all that the profile asks for stands in for the image's.
_STAND_IN = "console=tty1 root=PARTUUID=00000000-02 rootwait"
# A node that was never flashed has no flash time; its preview takes this one.
_PREVIEW_TIME = 0


def run(args: argparse.Namespace, ui: Ui) -> int:
    """Write the seed of the node's last flash, or of its first one as it would be."""
    project = Project.load(args.cluster)
    node = project.node(args.node)
    profile = project.profile(project.spec.image)
    ticket = _ticket(project, node, ui=ui)
    line = " ".join([_STAND_IN, *profile.cmdline.need]) + "\n"
    built = seeds.build(
        project,
        node,
        ticket=ticket,
        identity=project.workspace.identity(project.spec, ticket),
        profile=profile,
        boot={profile.cmdline.file: line.encode()},
    )
    seeds.advise(project, ui, profile=profile)
    contents = seed.masked(built)
    if args.reveal_secrets:
        contents = {path: file.content for path, file in built.files.items()}
    _write(contents, directory=args.output)
    masked = sorted(path for path, file in built.files.items() if file.secret)
    note = "" if args.reveal_secrets or not masked else f"; masked: {', '.join(masked)}"
    ui.result(
        f"{args.output}: {len(contents)} files of {node.name}, "
        f"generation {ticket.generation}{note}",
        {
            "node": node.name,
            "generation": ticket.generation,
            "directory": str(args.output),
            "files": {path: len(content) for path, content in sorted(contents.items())},
            "masked": [] if args.reveal_secrets else masked,
        },
    )
    return 0


def _ticket(project: Project, node: NodeSpec, *, ui: Ui) -> Ticket:
    last = project.workspace.last_ticket(node.name)
    if last is not None:
        return last
    ui.talk(f"piflash: {node.name} was never flashed: this is its first card, without a flash time")
    return project.workspace.next_ticket(project.spec, node.name, rebuild=False, now=_PREVIEW_TIME)


def _write(contents: Mapping[str, bytes], *, directory: Path) -> None:
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise UsageError(
            f"{directory} is there and is not an empty directory; nothing was written",
            hint="name a new directory: piflash render --node NAME -o DIR",
        )
    try:
        parent = directory.resolve().parent
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=".piflash-") as scratch:
            whole = Path(scratch) / "seed"
            for name, content in contents.items():
                _put(whole / name, content)
            for path in (whole, *whole.rglob("*")):
                ownership.give(path)
            whole.rename(directory)
    except OSError as error:
        where = shlex.quote(str(directory.parent))
        raise UsageError(
            f"{directory}: cannot be written: {error.strerror}",
            hint=f"look: ls -ld {where}; df -h {where}",
        ) from None


def _put(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    # Even masked, these are the user's network and names: for nobody else's eyes.
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(content)
