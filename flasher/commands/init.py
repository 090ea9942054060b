"""`piflash init`: a commented cluster.yaml to start from, with the user's own ssh key if any."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import tempfile
from pathlib import Path

from flasher import ownership, resources
from flasher.commands.ui import Ui
from flasher.errors import UsageError

KEY_FILES = ("id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub")
NO_KEY = "ssh-ed25519 AAAA... put your own public key here"
SCHEMA = "cluster.schema.json"


def run(args: argparse.Namespace, ui: Ui) -> int:
    """Write DIR/cluster.yaml, and the schema beside it. UsageError if a cluster.yaml is there."""
    directory: Path = args.directory
    file = directory / "cluster.yaml"
    key = _public_key(Path.home() / ".ssh")
    data = resources.data_dir("cloud-init")
    text = (data / "cluster.example.yaml").read_text(encoding="utf-8")
    values = {"NAME": cluster_name(directory), "SSH_KEY": key or NO_KEY, "SCHEMA": SCHEMA}
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory} is not a directory", hint="piflash init DIR")
    if file.exists():
        raise UsageError(
            f"{file} is there already and is kept", hint="name another directory: piflash init DIR"
        )
    try:
        _make(directory)
        # Ours, so that editors can complete the file; a newer one takes an older one's place.
        _write(directory / SCHEMA, (data / SCHEMA).read_bytes(), mode=0o644)
        # It will hold the Wi-Fi key and a password hash.
        _write(file, text.encode(), mode=0o600)
    except OSError as error:
        where = shlex.quote(str(directory))
        raise UsageError(
            f"{file}: cannot be written: {error.strerror}",
            hint=f"look: ls -ld {where}; df -h {where}",
        ) from None
    if key is None:
        ui.warn([f"no key in ~/.ssh: put your own public key into {file} (ssh-keygen -t ed25519)"])
    option = "" if directory == Path() else f" --cluster {shlex.quote(str(file))}"
    ui.result(
        f"{file} written: four nodes, one manager. Edit it, then run: piflash check{option}",
        {"file": str(file), "ssh_key_found": key is not None},
    )
    return 0


def cluster_name(directory: Path) -> str:
    """Make a valid cluster name of the directory's; `home` if nothing of it can be used."""
    name = re.sub(r"[^a-z0-9]+", "-", directory.resolve().name.lower()).strip("-")[:32].strip("-")
    return name if re.match(r"[a-z]", name) else "home"


def _make(directory: Path) -> None:
    if not directory.exists():
        _make(directory.parent)
        directory.mkdir()
        ownership.give(directory)


def _write(file: Path, content: bytes, *, mode: int) -> None:
    """Have the whole file or none."""
    fd, name = tempfile.mkstemp(dir=file.parent, prefix=".piflash-")
    try:
        with os.fdopen(fd, "wb") as part:
            part.write(content)
            os.fchmod(fd, mode)
            ownership.give(fd)
        Path(name).replace(file)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def _public_key(directory: Path) -> str | None:
    others = sorted(path.name for path in directory.glob("*.pub"))
    for name in dict.fromkeys([*KEY_FILES, *others]):
        try:
            text = (directory / name).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if text and not set(text) & set('\n"\\'):
            return text
    return None
