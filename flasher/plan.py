"""Image + target + seed -> CardPlan: all that the writer will do, before it touches anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from flasher import fat, partition
from flasher.errors import ImageError
from flasher.model import (
    BlockDevice,
    ClusterSpec,
    Image,
    ImageFile,
    Partition,
    PermitKind,
    ReadAt,
    Role,
    Run,
    Seed,
    Target,
    Ticket,
)


@dataclass(frozen=True)
class Layout:
    """The base image's own layout. `size`: bytes up to the end of the last partition."""

    size: int
    signature: int
    boot: Partition
    partitions: tuple[Partition, ...]


@dataclass(frozen=True)
class FileChange:
    """One file that the seed puts on the boot partition, or takes the place of."""

    path: str
    size: int
    replaces: bool


@dataclass(frozen=True)
class CardPlan:
    """One card: what is written where, from what. The writer accepts nothing else.

    `patch` has absolute offsets in the image, sorted, not overlapping. `size` is that of the whole
    decompressed image where it is known, else the least it can be (the end of the last partition).
    """

    cluster: str
    node: str
    role: Role
    generation: int
    epoch: int
    permit: PermitKind | None
    image: Image
    layout: Layout
    size: int
    target: Target
    files: tuple[FileChange, ...]
    verify: bool
    patch: tuple[Run, ...] = field(repr=False)


@dataclass(frozen=True)
class Window:
    """A part of a larger source, as a source of its own: the boot partition of an image."""

    source: ReadAt
    offset: int
    size: int

    def read_at(self, offset: int, size: int) -> bytes:
        """Give the bytes at an offset of the window; never any from behind its end."""
        size = max(0, min(size, self.size - offset))
        return self.source.read_at(self.offset + offset, size)


def read_layout(source: ReadAt, *, image: Image) -> Layout:
    """Read the image's MBR. ImageError if it cannot carry a seed or is shorter than it says."""
    mbr = partition.parse(source.read_at(0, 512), image=image.id)
    boot = partition.boot_partition(mbr, image=image.id)
    layout = Layout(
        size=max(part.end for part in mbr.partitions),
        signature=mbr.signature,
        boot=boot,
        partitions=mbr.partitions,
    )
    if image.size is not None and image.size < layout.size:
        raise ImageError(
            f"{image.id}: the image has {image.size} bytes, but its partition table needs "
            f"{layout.size}: it was cut short",
            hint="download it again, or name a complete image with --image",
        )
    return layout


def boot_window(source: ReadAt, *, layout: Layout) -> Window:
    """Give the boot partition as a source of its own."""
    return Window(source, layout.boot.offset, layout.boot.size)


def read_boot_files(
    source: ReadAt, *, image: Image, layout: Layout, names: tuple[str, ...]
) -> dict[str, bytes]:
    """Read those of the named files that the boot partition has. ImageError if it is damaged."""
    with _naming(image):
        volume = fat.FatVolume(boot_window(source, layout=layout), size=layout.boot.size)
        return {name: volume.read(name) for name in names if volume.exists(name)}


@contextmanager
def _naming(image: Image) -> Iterator[None]:
    """Have an error of the boot partition name the image that it is in."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{image.id}: {error.message}", hint=error.hint) from None


def make(
    spec: ClusterSpec,
    *,
    ticket: Ticket,
    image: Image,
    layout: Layout,
    source: ReadAt,
    target: Target,
    seed: Seed,
    verify: bool,
) -> CardPlan:
    """Plan one card. ImageError if the seed does not fit the boot partition."""
    window = boot_window(source, layout=layout)
    contents = {path: file.content for path, file in seed.files.items()}
    with _naming(image):
        runs = fat.patch(window, contents, when=ticket.flashed_at, size=layout.boot.size)
    return CardPlan(
        cluster=spec.name,
        node=ticket.node,
        role=spec.node(ticket.node).role,
        generation=ticket.generation,
        epoch=ticket.epoch,
        permit=ticket.permit,
        image=image,
        layout=layout,
        size=image.size or layout.size,
        target=target,
        files=_changes(window, seed),
        verify=verify,
        patch=tuple(Run(run.offset + layout.boot.offset, run.data) for run in runs),
    )


def _changes(window: Window, seed: Seed) -> tuple[FileChange, ...]:
    volume = fat.FatVolume(window, size=window.size)
    return tuple(
        FileChange(path, len(file.content), volume.exists(path))
        for path, file in sorted(seed.files.items())
    )


def target_name(target: Target) -> str:
    """Give the target as the user would name it."""
    return target.path if isinstance(target, BlockDevice) else str(target.path)


def target_text(target: Target) -> str:
    """Describe the target so that a person recognises the card."""
    if isinstance(target, ImageFile):
        if target.replaces is None:
            return f"{target.path} (new file)"
        what = f"the card of {target.holds}" if target.holds else human(target.replaces)
        return f"{target.path} (file, replaces {what})"
    about = " ".join(part for part in (target.vendor, target.model) if part) or target.bus.value
    serial = f", serial {target.serial}" if target.serial else ""
    backing = f", backed by {target.backing_file}" if target.backing_file else ""
    return f"{target.path} ({about}, {human(target.size)}{serial}{backing})"


def human(size: int) -> str:
    """Give a size in the unit that a card's label uses (powers of ten), with bytes below 1 kB."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


_PERMITS = {
    PermitKind.GENESIS: "founds the swarm",
    PermitKind.REJOIN: "joins the swarm again, or founds it if no manager has ever been in one",
    PermitKind.REBUILD: "founds a NEW swarm in place of the one before",
}


def as_text(plan: CardPlan) -> str:
    """Give the plan as the user confirms it: what goes where and what is lost."""
    permit = f", {_PERMITS[plan.permit]}" if plan.permit else ""
    lines = [
        f"{plan.node} ({plan.role.value} of {plan.cluster}, generation {plan.generation}, "
        f"epoch {plan.epoch}{permit})",
        f"  onto   {target_text(plan.target)}",
        f"  image  {plan.image.id}, {human(plan.size)}",
        f"  seed   {len(plan.files)} files, {human(sum(f.size for f in plan.files))} on the boot "
        f"partition ({sum(f.replaces for f in plan.files)} replaced)",
        f"  then   {'read back and compared' if plan.verify else 'NOT verified (--no-verify)'}",
    ]
    if isinstance(plan.target, BlockDevice):
        parts = len(plan.target.partitions)
        lines.append(f"  ERASES everything on {plan.target.path} ({parts} partitions now)")
    return "\n".join(lines)


def as_json(plan: CardPlan) -> Mapping[str, object]:
    """Give the plan as plain data, without contents."""
    target = plan.target
    return {
        "cluster": plan.cluster,
        "node": plan.node,
        "role": plan.role.value,
        "generation": plan.generation,
        "epoch": plan.epoch,
        "permit": plan.permit.value if plan.permit else None,
        "image": {"id": plan.image.id, "size": plan.size, "sha256": plan.image.sha256},
        "target": {
            "path": target_name(target),
            "kind": "device" if isinstance(target, BlockDevice) else "file",
            "size": target.size if isinstance(target, BlockDevice) else None,
            "model": target.model if isinstance(target, BlockDevice) else None,
            "serial": target.serial if isinstance(target, BlockDevice) else None,
        },
        "files": [
            {"path": change.path, "size": change.size, "replaces": change.replaces}
            for change in plan.files
        ],
        "verify": plan.verify,
    }
