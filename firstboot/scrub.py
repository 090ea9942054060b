"""Takes what was secret in the user-data off FAT and out of cloud-init's copies. Shell.

Only once the first boot is over: cloud-init still reads its scripts while it runs. What it needs
in every boot stays, in a user-data that the card's writer put beside the other.
"""

from __future__ import annotations

import os
from typing import Iterator

from firstboot import files, nodeconfig
from firstboot.layout import Layout

MAX_USER_DATA = 1 << 20
# cloudinit/helpers.py of 18.3, Paths.lookups: what is made of the user-data; the pickled data
# source holds it too. All of it is made anew at the next boot, from what FAT then has.
COPIES = ("obj.pkl", "user-data.txt", "user-data.txt.i", "cloud-config.txt", "scripts")


def user_data(layout: Layout) -> bool:
    """Do it, if it is time and not done yet; say whether it is done. OSError if a file resists."""
    if os.path.exists(layout.scrubbed):
        return True
    if not (os.path.exists(layout.first_boot_done) and os.path.exists(layout.cloud_init_ended)):
        return False
    kept = files.read(os.path.join(layout.boot, nodeconfig.USER_DATA_KEPT), limit=MAX_USER_DATA)
    if kept is None:
        return False
    _overwrite(os.path.join(layout.boot, nodeconfig.USER_DATA), kept)
    for path in _copies(layout.cloud_instances):
        files.scrub(path)
    files.replace(layout.scrubbed, b"", mode=0o600)
    return True


def _overwrite(path: str, kept: bytes) -> None:
    """In place and to the old length, so that the old content is nowhere; repeated if cut short."""
    size = os.stat(path).st_size
    with open(path, "r+b") as file:
        file.write(kept + b"\n" * (size - len(kept)))
        file.flush()
        os.fsync(file.fileno())


def _copies(instances: str) -> Iterator[str]:
    for top, _, names in os.walk(instances):
        for name in names:
            path = os.path.join(top, name)
            part = os.path.relpath(path, instances).split(os.sep)
            # part[0] is the instance's id.
            if len(part) > 1 and part[1] in COPIES and os.path.isfile(path):
                yield path
