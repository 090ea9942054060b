"""The user's TARGETs: what each is, and every reason not to write it, before anything is opened."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote

from firstboot import nodeconfig
from flasher import devices, fat, plan, safety
from flasher.commands.project import WORKSPACE
from flasher.errors import DeviceRefusedError, ImageError, UsageError
from flasher.model import BlockDevice, Image, ImageFile, Target

FOREIGN_FILE = "foreign-file"
# An image may go on behind its last partition; a backup appended to it would be longer.
_SLACK = 8 << 20
# Every code that --force takes.
OVERRIDABLE = frozenset({*safety.OVERRIDABLE, FOREIGN_FILE})


def choose_targets(
    names: Sequence[str], *, need: int, image: Image | None, allow: Sequence[str]
) -> tuple[Target, ...]:
    """Give what the names stand for. DeviceRefusedError tells all that speaks against them.

    `need`: bytes that each must hold; 0, and no `image`, while the image is not known yet.
    """
    targets = tuple(_with_content(devices.what_is(name)) for name in names)
    _refuse_twice(targets)
    refusals = [
        refusal
        for target in targets
        for refusal in _refusals(target, need=need, image=image, allow=allow)
    ]
    if refusals:
        remedies = [_remedy(refusal) for refusal in refusals]
        if any(isinstance(target, BlockDevice) for target in targets):
            remedies.append(f"what can be written now: {_candidates(need)}")
        raise DeviceRefusedError(
            "refused, and nothing was written:\n"
            + "\n".join(f"  {refusal.reason} [{refusal.code}]" for refusal in refusals),
            hint="\n  ".join(dict.fromkeys(remedies)),
        )
    return targets


def _candidates(need: int) -> str:
    found = safety.candidates(devices.list_devices(), need=need)
    return ", ".join(map(plan.target_text, found)) or "nothing; plug in a card reader"


def _remedy(refusal: safety.Refusal) -> str:
    override = f" (or, if you are sure: --force {refusal.code})" if refusal.overridable else ""
    return refusal.remedy + override


def _refuse_twice(targets: Sequence[Target]) -> None:
    keys = [
        (t.backing_file or t.number) if isinstance(t, BlockDevice) else str(t.path) for t in targets
    ]
    for index, key in enumerate(keys):
        if key in keys[:index]:
            name = plan.target_name(targets[index])
            raise UsageError(f"TARGET {name} is given twice", hint="give each node its own card")


def _refusals(
    target: Target, *, need: int, image: Image | None, allow: Sequence[str]
) -> tuple[safety.Refusal, ...]:
    if isinstance(target, BlockDevice):
        return safety.judge(target, need=need, allow=allow)
    return _file_refusals(target, image=image, allow=allow)


def _file_refusals(
    target: ImageFile, *, image: Image | None, allow: Sequence[str]
) -> tuple[safety.Refusal, ...]:
    path = target.path
    if image is not None and path.exists() and path.samefile(image.path):
        reason = f"{path} is the base image itself"
        return (safety.Refusal("base-image", reason, "name another file for the card", False),)
    if WORKSPACE in path.parts:
        reason = f"{path} lies in a {WORKSPACE}/, which is the cluster's memory"
        return (safety.Refusal("workspace", reason, "name a file elsewhere", False),)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        reason = f"you may not make files in {path.parent}"
        remedy = f"name a file in a directory of yours, or look: ls -ld {quote(str(path.parent))}"
        return (safety.Refusal("no-rights", reason, remedy, False),)
    if not target.replaces or target.holds or FOREIGN_FILE in allow:
        return ()
    if not os.access(path, os.R_OK):
        reason = f"{path} exists, and you may not read what it is"
        return (safety.Refusal("no-rights", reason, f"look: ls -l {quote(str(path))}", False),)
    reason = f"{path} exists, and is not an unused card that piflash wrote"
    return (safety.Refusal(FOREIGN_FILE, reason, "name another file for the card", True),)


def _with_content(target: Target) -> Target:
    if isinstance(target, BlockDevice) or not target.replaces:
        return target
    return replace(target, holds=card_of(target.path))


@dataclass(frozen=True)
class _RawFile:
    """A file as it is; streams.Prefix would look into a zip that is called .img."""

    fd: int

    def read_at(self, offset: int, size: int) -> bytes:
        return os.pread(self.fd, size, offset)


def card_of(path: Path) -> str:
    """Tell whose unused card a file is: `pi3 of home, generation 2`.

    Empty for all else: no card of piflash, one that a Pi has run from (a backup of it, perhaps the
    only copy of somebody's data), or one that something was appended to.
    """
    image = Image(id=path.name, profile="", path=path, sha256=None, size=None)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        source = _RawFile(fd)
        layout = plan.read_layout(source, image=image)
        window = plan.boot_window(source, layout=layout)
        volume = fat.FatVolume(window, size=window.size)
        unused = volume.exists(f"{nodeconfig.IDENTITY_DIR}/{nodeconfig.NODE_KEY}")
        if not unused or os.fstat(fd).st_size > layout.size + _SLACK:
            return ""
        node = nodeconfig.parse(volume.read(nodeconfig.NODE_JSON).decode())
    except (ImageError, nodeconfig.ConfigError, UnicodeDecodeError, OSError):
        return ""
    finally:
        os.close(fd)
    return f"{node.name} of {node.cluster}, generation {node.generation}"
