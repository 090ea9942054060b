"""`piflash init`: a commented cluster.yaml to start from, with the user's own ssh key if any."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from flasher import resources
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
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as out:
            out.write(text)
        # Ours, so that editors can complete the file; a newer one takes an older one's place.
        (directory / SCHEMA).write_bytes((data / SCHEMA).read_bytes())
    except FileExistsError:
        raise UsageError(
            f"{file} is there already and is kept", hint="name another directory: piflash init DIR"
        ) from None
    except OSError as error:
        raise UsageError(
            f"{file}: cannot be written: {error.strerror}", hint=f"ls -ld {directory}"
        ) from None
    if key is None:
        ui.warn([f"no key in ~/.ssh: put your own public key into {file} (ssh-keygen -t ed25519)"])
    option = "" if directory == Path() else f" --cluster {file}"
    ui.result(
        f"{file} written: four nodes, one manager. Edit it, then run: piflash check{option}",
        {"file": str(file), "ssh_key_found": key is not None},
    )
    return 0


def cluster_name(directory: Path) -> str:
    """Make a valid cluster name of the directory's; `home` if nothing of it can be used."""
    name = re.sub(r"[^a-z0-9]+", "-", directory.resolve().name.lower()).strip("-")[:32].strip("-")
    return name if re.match(r"[a-z]", name) else "home"


def _public_key(directory: Path) -> str | None:
    for name in KEY_FILES:
        try:
            text = (directory / name).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if text and not set(text) & set('\n"\\'):
            return text
    return None
