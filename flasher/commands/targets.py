"""The user's TARGETs: what each is, and every reason not to write it, before anything is opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from firstboot import nodeconfig
from flasher import devices, fat, plan, safety, streams
from flasher.errors import DeviceRefusedError, ImageError, UsageError
from flasher.model import BlockDevice, Image, ImageFile, Target

FOREIGN_FILE = "foreign-file"
# Every code that --force takes.
OVERRIDABLE = frozenset({*safety.OVERRIDABLE, FOREIGN_FILE})


def choose_targets(
    names: Sequence[str], *, need: int, image: Image, allow: Sequence[str]
) -> tuple[Target, ...]:
    """Give what the names stand for. DeviceRefusedError tells all that speaks against them."""
    targets = tuple(devices.what_is(name) for name in names)
    _refuse_twice(targets)
    found = [devices_refusal(target, need=need, allow=allow) for target in targets]
    found += [_file_refusal(target, image=image, allow=allow) for target in targets]
    refusals = [refusal for some in found for refusal in some]
    if refusals:
        others = safety.candidates(devices.list_devices(), need=need)
        listed = ", ".join(plan.target_text(device) for device in others)
        raise DeviceRefusedError(
            "refused, and nothing was written:\n"
            + "\n".join(f"  {refusal.reason} [{refusal.code}]" for refusal in refusals),
            hint="\n  ".join(
                [
                    *dict.fromkeys(_remedy(refusal) for refusal in refusals),
                    f"what can be written now: {listed or 'nothing; plug in a card reader'}",
                ]
            ),
        )
    return targets


def devices_refusal(
    target: Target, *, need: int, allow: Sequence[str]
) -> tuple[safety.Refusal, ...]:
    """Give the reasons against a device; none for a file."""
    if isinstance(target, ImageFile):
        return ()
    return safety.judge(target, need=need, allow=allow)


def _remedy(refusal: safety.Refusal) -> str:
    override = f" (or, if you are sure: --force {refusal.code})" if refusal.overridable else ""
    return refusal.remedy + override


def _refuse_twice(targets: Sequence[Target]) -> None:
    keys = [t.number if isinstance(t, BlockDevice) else t.path for t in targets]
    for index, key in enumerate(keys):
        if key in keys[:index]:
            name = plan.target_name(targets[index])
            raise UsageError(f"TARGET {name} is given twice", hint="give each node its own card")


def _file_refusal(
    target: Target, *, image: Image, allow: Sequence[str]
) -> tuple[safety.Refusal, ...]:
    if isinstance(target, BlockDevice):
        return ()
    if target.path == image.path.resolve():
        reason = f"{target.path} is the base image itself"
        return (safety.Refusal("base-image", reason, "name another file for the card", False),)
    if not target.replaces or FOREIGN_FILE in allow or holds_a_card(target.path):
        return ()
    reason = f"{target.path} exists, and is not a card that piflash wrote"
    return (safety.Refusal(FOREIGN_FILE, reason, "name another file for the card", True),)


def holds_a_card(path: Path) -> bool:
    """Tell whether a file is a card of piflash: whether its boot partition has our node.json."""
    image = Image(id=path.name, profile="", path=path, sha256=None, size=None)
    try:
        with streams.Prefix(image) as source:
            layout = plan.read_layout(source, image=image)
            window = plan.boot_window(source, layout=layout)
            volume = fat.FatVolume(window, size=window.size)
            return volume.exists(nodeconfig.NODE_JSON)
    except ImageError:
        return False
