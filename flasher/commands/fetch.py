"""`piflash fetch`: the base image into the cache, verified, for flashing offline later."""

from __future__ import annotations

import argparse

from flasher import images, streams, weburl
from flasher.commands.project import Project, cache_dir, image_ref
from flasher.commands.ui import Ui
from flasher.images import Resolved
from flasher.model import ImageRef, Progress
from flasher.progress import for_stream


def run(args: argparse.Namespace, ui: Ui) -> int:
    """Fetch, read the whole image once to prove that it decompresses, record its hash."""
    project = Project.load(args.cluster)
    ref = image_ref(args.image) if args.image else project.spec.image
    if args.repin:
        project.workspace.unpin_image(weburl.pin_name(ref.text))
    progress = for_stream(quiet=ui.as_json)
    found = resolve(project, ref, progress=progress, ui=ui, refresh=args.repin)
    with streams.open_image(found.image) as stream:
        size = read_through(stream)
    if project.cloud_init_schemas.warning:
        ui.warn([project.cloud_init_schemas.warning])
    ui.result(
        f"{found.image.id}: {found.image.path} is complete ({size} bytes decompressed, "
        f"sha256 {found.sha256}, {found.trust.value})",
        {
            "id": found.image.id,
            "path": str(found.image.path),
            "sha256": found.sha256,
            "size": size,
            "trust": found.trust.value,
        },
    )
    return 0


def resolve(
    project: Project, ref: ImageRef, *, progress: Progress, ui: Ui, refresh: bool = False
) -> Resolved:
    """Give the image on disk, and record what was seen for the first time."""
    name = weburl.pin_name(ref.text)
    found = images.resolve(
        ref,
        catalogue=project.data.catalogue,
        base=project.directory,
        cache=cache_dir() / "images",
        pinned=project.workspace.image_pin(name),
        progress=progress,
        refresh=refresh,
    )
    if found.trust is images.Trust.FIRST_USE:
        ui.talk(
            f"piflash: {found.image.id}: nobody vouches for this image; its hash {found.sha256} is "
            "recorded now, and another one is refused from here on"
        )
    if found.sha256 and found.trust is not images.Trust.PINNED:
        project.workspace.pin_image(name, found.sha256)
    return found


def read_through(stream: streams.ImageStream) -> int:
    """Read an image to its end and have its checksums checked; gives its size in bytes."""
    buffer = memoryview(bytearray(1 << 20))
    total = 0
    while count := stream.readinto(buffer):
        total += count
    stream.finish()
    return total
