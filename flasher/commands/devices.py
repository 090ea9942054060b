"""`piflash devices`: what can be written, and why the rest can't."""

from __future__ import annotations

import argparse

from flasher import devices, safety
from flasher.commands.ui import Ui
from flasher.model import BlockDevice
from flasher.plan import human


def run(_args: argparse.Namespace, ui: Ui) -> int:
    """List every whole disk with its verdict; nothing is opened for writing."""
    rows = [(device, safety.judge(device, need=0, allow=())) for device in devices.list_devices()]
    usable = safety.candidates([device for device, _ in rows], need=0)
    lines = []
    for device, refusals in rows:
        verdict = "refused" if refusals else "can be written"
        if refusals and device in usable:
            verdict = "can be written with sudo"
        lines.append(f"{device.path:16} {human(device.size):>9}  {_about(device):32} {verdict}")
        for refusal in refusals:
            override = f" (--force {refusal.code})" if refusal.overridable else ""
            lines.append(f"{'':16} {'':9}  - {refusal.reason}{override}")
    if not usable:
        lines.append("No card can be written: plug in a card reader with a card.")
    data = [
        {
            "path": device.path,
            "size": device.size,
            "bus": device.bus.value,
            "vendor": device.vendor,
            "model": device.model,
            "serial": device.serial,
            "removable": device.removable,
            "writable": not refusals,
            "refused": [
                {
                    "code": refusal.code,
                    "reason": refusal.reason,
                    "remedy": refusal.remedy,
                    "overridable": refusal.overridable,
                }
                for refusal in refusals
            ],
        }
        for device, refusals in rows
    ]
    ui.result("\n".join(lines), data)
    return 0


def _about(device: BlockDevice) -> str:
    name = " ".join(part for part in (device.vendor, device.model) if part)
    return f"{name or device.backing_file or '-'} [{device.bus.value}]"
