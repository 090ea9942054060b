"""`piflash init`: a commented cluster.yaml to start from, with the user's own ssh key if there is one."""

from __future__ import annotations

import argparse
from pathlib import Path

from flasher import resources
from flasher.commands.ui import Ui
from flasher.errors import UsageError

# Newest kinds first: the one a user made last is the one in use.
KEY_FILES = ("id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub")
NO_KEY = "ssh-ed25519 AAAA... replace-this-with-your-own-public-key"


def run(args: argparse.Namespace, ui: Ui) -> int:
    """Write DIR/cluster.yaml. UsageError if one is there."""
    directory: Path = args.directory
    file = directory / "cluster.yaml"
    key = _public_key(Path.home() / ".ssh")
    template = resources.data_dir("cloud-init") / "cluster.example.yaml"
    text = template.read_text(encoding="utf-8").replace("@SSH_KEY@", key or NO_KEY)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        raise UsageError(
            f"{file} is there already and is kept", hint="name another directory: piflash init DIR"
        ) from None
    except OSError as error:
        raise UsageError(
            f"{file}: cannot be written: {error.strerror}", hint=f"ls -ld {directory}"
        ) from None
    if key is None:
        ui.warn(
            [
                f"no ssh key found in ~/.ssh: put your own in {file} (make one: ssh-keygen -t ed25519)"
            ]
        )
    ui.result(
        f"{file} written: four nodes, one manager. Edit it, then run `piflash check`"
        + (f" --cluster {file}." if directory != Path() else "."),
        {"file": str(file), "ssh_key_found": key is not None},
    )
    return 0


def _public_key(directory: Path) -> str | None:
    for name in KEY_FILES:
        try:
            text = (directory / name).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if text and "\n" not in text:
            return text
    return None
