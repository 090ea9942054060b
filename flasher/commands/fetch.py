"""`piflash fetch`: the base image into the cache, verified, for flashing offline later."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from flasher import images, streams, weburl
from flasher.commands.project import Project, cache_dir, image_ref
from flasher.commands.ui import Ui
from flasher.images import Resolved
from flasher.model import ImageRef, Progress
from flasher.progress import for_stream


@dataclass(frozen=True)
class Source:
    """What names the image, and the directory that a relative path of it starts from."""

    ref: ImageRef
    base: Path

    @property
    def pin_name(self) -> str:
        """The name under which the image's hash is recorded."""
        return weburl.pin_name(self.ref.text)


def run(args: argparse.Namespace, ui: Ui) -> int:
    """Fetch, read the whole image once to prove that it decompresses, record its hash."""
    project = Project.load(args.cluster)
    wanted = source(args, project)
    if args.repin:
        project.workspace.unpin_image(wanted.pin_name)
    progress = for_stream(quiet=ui.as_json)
    found = resolve(project, wanted, progress=progress, refresh=args.repin)
    with streams.open_image(found.image) as stream:
        size = read_through(stream)
        sha256 = stream.sha256
    remember(project, wanted, found, ui=ui)
    if project.cloud_init_schemas.warning:
        ui.warn([project.cloud_init_schemas.warning])
    ui.result(
        f"{found.image.id}: {found.image.path} is complete ({size} bytes decompressed, "
        f"sha256 {sha256}; {found.trust.value})",
        {
            "id": found.image.id,
            "path": str(found.image.path),
            "sha256": sha256,
            "size": size,
            "trust": found.trust.name.lower(),
        },
    )
    return 0


def source(args: argparse.Namespace, project: Project) -> Source:
    """Give the image of --image, relative to here, or the cluster file's, relative to it."""
    if args.image is not None:
        return Source(image_ref(args.image), Path.cwd())
    return Source(project.spec.image, project.directory)


def resolve(
    project: Project, wanted: Source, *, progress: Progress, refresh: bool = False
) -> Resolved:
    """Give the image on disk. ImageError if it is not the one that was recorded before."""
    return images.resolve(
        wanted.ref,
        catalogue=project.data.catalogue,
        base=wanted.base,
        cache=cache_dir() / "images",
        pinned=project.workspace.image_pin(wanted.pin_name),
        progress=progress,
        refresh=refresh,
    )


def remember(project: Project, wanted: Source, found: Resolved, *, ui: Ui) -> None:
    """Record the hash of an image that was read to its end without a fault."""
    if found.sha256 is None or found.trust is images.Trust.PINNED:
        return
    project.workspace.pin_image(wanted.pin_name, found.sha256)
    if found.trust is images.Trust.FIRST_USE:
        ui.talk(
            f"piflash: {found.image.id}: nobody vouches for this image; its hash {found.sha256} is "
            "recorded now, and another one is refused from here on"
        )


def read_through(stream: streams.ImageStream) -> int:
    """Read an image to its end and have its checksums checked; gives its size in bytes."""
    buffer = memoryview(bytearray(1 << 20))
    total = 0
    while count := stream.readinto(buffer):
        total += count
    stream.finish()
    return total
