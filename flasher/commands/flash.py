"""`piflash flash`: the main job, from the cluster file to verified cards."""

from __future__ import annotations

import argparse
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType

from flasher import plan, streams, writer
from flasher.commands import fetch, seeds
from flasher.commands.project import WORKSPACE, Project
from flasher.commands.targets import choose_targets
from flasher.commands.ui import Ui
from flasher.errors import UsageError
from flasher.model import Image, NodeSpec, Ticket
from flasher.plan import CardPlan
from flasher.progress import for_stream
from flasher.writer import Outcome


@dataclass(frozen=True)
class Request:
    """One --node/TARGET pair, with the ticket that its next flash gets."""

    node: NodeSpec
    target: str
    ticket: Ticket


def run(args: argparse.Namespace, ui: Ui) -> int:
    """Plan, confirm, mint, write. The exit code is that of the first card that failed."""
    project = Project.load(args.cluster)
    _tell_new_cluster(project, ui)
    requests = _requests(args, project)
    warnings = (
        project.workspace.clock_warning(now=int(time.time())),
        project.workspace.address_warning(project.spec),
    )
    ui.warn([warning for warning in warnings if warning])
    # Before anything is downloaded: what can never be written is known now.
    names = [request.target for request in requests]
    choose_targets(names, need=0, image=None, allow=args.force)
    progress = for_stream(quiet=ui.as_json)
    source = fetch.source(args, project)
    found = fetch.resolve(project, source, progress=progress)
    image = _pinned_down(found.image)
    plans = _plan(project, requests, image=image, args=args, ui=ui)
    text = "\n".join(plan.as_text(card) for card in plans)
    if args.dry_run:
        ui.result(text, [plan.as_json(card) for card in plans])
        return 0
    ui.talk(text)
    if not args.yes:
        ui.confirm(card.node for card in plans)
    tickets = _mint(project, requests, args=args)
    with _interrupts() as stop:
        outcomes = writer.write(
            plans,
            progress=progress,
            stop=stop,
            before_bootable=lambda card: project.workspace.delivered(tickets[card.node]),
        )
    if any(outcome.result for outcome in outcomes):
        fetch.remember(project, source, found, ui=ui)
    return _report(outcomes, ui=ui)


def _tell_new_cluster(project: Project, ui: Ui) -> None:
    if project.is_new:
        ui.talk(
            f"piflash: there is no {WORKSPACE}/ beside {project.file}: this starts a NEW cluster. "
            f"If {project.spec.name} has cards already, stop here and bring its {WORKSPACE}/ back "
            "from a backup, or old and new cards will not know each other"
        )


def _requests(args: argparse.Namespace, project: Project) -> tuple[Request, ...]:
    if len(args.node) != len(args.targets):
        raise UsageError(
            f"{len(args.node)} --node but {len(args.targets)} TARGET",
            hint="give one TARGET per --node: piflash --node pi1 /dev/sdX --node pi2 pi2.img",
        )
    twice = sorted({name for name in args.node if args.node.count(name) > 1})
    if twice:
        raise UsageError(f"--node {twice[0]} is given twice", hint="one card per node")
    now = int(time.time())
    nodes = [project.node(name) for name in args.node]
    seed = next(node for node in project.spec.nodes if node.seed)
    if args.rebuild and seed not in nodes:
        raise UsageError(
            f"--rebuild: {args.node[0]} is not the seed; only the seed founds a swarm",
            hint=f"piflash --rebuild --node {seed.name} TARGET",
        )
    return tuple(
        Request(
            node,
            target,
            project.workspace.next_ticket(
                project.spec, node.name, rebuild=args.rebuild and node.seed, now=now
            ),
        )
        for node, target in zip(nodes, args.targets, strict=True)
    )


def _pinned_down(image: Image) -> Image:
    """Give the image with its decompressed size, if its container tells it, and its hash.

    A local file without a hash may be replaced while the user reads the plan; the pass that writes
    the cards then finds another hash than the plan was made for.
    """
    with streams.open_image(image) as stream:
        size = stream.size
    return replace(image, size=size, sha256=image.sha256 or streams.stored_sha256(image))


def _plan(
    project: Project,
    requests: Sequence[Request],
    *,
    image: Image,
    args: argparse.Namespace,
    ui: Ui,
) -> tuple[CardPlan, ...]:
    profile = project.data.profiles[image.profile]
    with streams.Prefix(image) as source:
        layout = plan.read_layout(source, image=image)
        boot = plan.read_boot_files(
            source, image=image, layout=layout, names=profile.edited_boot_files
        )
        need = image.size or layout.size
        names = [request.target for request in requests]
        targets = choose_targets(names, need=need, image=image, allow=args.force)
        seeds.advise(project, ui, profile=profile)
        plans = []
        for request, target in zip(requests, targets, strict=True):
            identity = project.workspace.identity(project.spec, request.ticket)
            seed = seeds.build(
                project,
                request.node,
                ticket=request.ticket,
                identity=identity,
                profile=profile,
                boot=boot,
            )
            plans.append(
                plan.make(
                    project.spec,
                    ticket=request.ticket,
                    image=image,
                    layout=layout,
                    source=source,
                    target=target,
                    seed=seed,
                    verify=args.verify,
                )
            )
    return tuple(plans)


def _mint(
    project: Project, requests: Sequence[Request], *, args: argparse.Namespace
) -> Mapping[str, Ticket]:
    return {
        request.node.name: project.workspace.mint(
            project.spec,
            request.node.name,
            rebuild=args.rebuild and request.node.seed,
            now=request.ticket.flashed_at,
            expected=request.ticket,
        )
        for request in requests
    }


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Have Ctrl-C, TERM and HUP stop the writer in order."""
    stop = threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    # HUP: the terminal was closed, or the ssh connection lost.
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {getattr(signal, name): signal.signal(getattr(signal, name), handle) for name in names}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _report(outcomes: Sequence[Outcome], *, ui: Ui) -> int:
    lines = []
    for outcome in outcomes:
        where = plan.target_name(outcome.plan.target)
        if outcome.result:
            verified = "written and verified" if outcome.plan.verify else "written, NOT verified"
            seconds = outcome.result.seconds_write + outcome.result.seconds_verify
            lines.append(f"{outcome.plan.node}: {where} {verified} in {seconds:.1f} s")
        elif outcome.error:
            ui.talk_error(outcome.error, about=f"{outcome.plan.node}: ")
    if lines and len(lines) == len(outcomes):
        lines.append("Put each card into its Pi and power on, in any order.")
    ui.result("\n".join(lines), [_as_json(outcome) for outcome in outcomes])
    errors = [outcome.error for outcome in outcomes if outcome.error]
    return errors[0].exit_code if errors else 0


def _as_json(outcome: Outcome) -> Mapping[str, object]:
    result = outcome.result
    return {
        **plan.as_json(outcome.plan),
        "ok": result is not None,
        "bytes_written": result.bytes_written if result else None,
        "bytes_verified": result.bytes_verified if result else None,
        "seconds_write": round(result.seconds_write, 3) if result else None,
        "seconds_verify": round(result.seconds_verify, 3) if result else None,
        "error": outcome.error.message if outcome.error else None,
        "exit_code": outcome.error.exit_code if outcome.error else 0,
    }
