"""Builds a small HypriotOS-shaped image, serves it on loopback, writes pi1's card as a file."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import baseimage
from tests.support.cluster import SSH_KEY

NAME = "hypriotos-demo.img"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Keep the demo's own lines readable."""


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """Serve a directory on a free loopback port; gives the URL."""
    handler = functools.partial(_Quiet, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def publish(directory: Path) -> Path:
    """Make the base image and publish it as HypriotOS is: a zip with its .sha256 beside it."""
    directory.mkdir(parents=True)
    raw = baseimage.build(directory / NAME)
    archive = baseimage.zip_image(raw, directory / f"{NAME}.zip")
    raw.unlink()
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    (directory / f"{NAME}.zip.sha256").write_text(f"{digest}  {archive.name}\n")
    return archive


def piflash(*argv: str, demo: Path) -> None:
    """Run the real command in the demo directory, showing it first."""
    print(f"\n$ piflash {' '.join(argv)}", flush=True)
    command = [sys.executable, "-m", "flasher", *argv]
    environment = {
        **os.environ,
        "PIFLASH_CACHE": str(demo / "cache"),
        "HOME": str(demo / "home"),  # so that your own key stays out of it
    }
    done = subprocess.run(command, cwd=demo, env=environment, timeout=120, check=False)
    if done.returncode:
        sys.exit(f"the demo failed: exit code {done.returncode}")


def show_card(card: Path) -> None:
    """Print the card's boot partition as mtools, not piflash, reads it."""
    tree = baseimage.run("mdir", "-/", "-b", "-i", f"{card}@@1M", "::").decode()
    print(f"\nThe boot partition of {card.name}, as mtools reads it:")
    for line in sorted(tree.split()):
        print(f"  {line.removeprefix('::/')}")
    with card.open("rb") as image:
        sector = image.read(512)
    signature = int.from_bytes(sector[440:444], "little")
    print(f"  (MBR: disk signature {signature:08x}, boot signature {sector[510:].hex()})")


def main() -> None:
    """Run the demo in ./demo."""
    demo = Path("demo").resolve()
    shutil.rmtree(demo, ignore_errors=True)
    print(
        "building a small base image shaped like HypriotOS 1.12.3 (MBR, FAT16, ext4) ...",
        flush=True,
    )
    archive = publish(demo / "server")
    print(f"  {archive.name}: {archive.stat().st_size} bytes")
    key = demo / "home" / ".ssh" / "id_ed25519.pub"
    key.parent.mkdir(parents=True)
    key.write_text(SSH_KEY + "\n")
    piflash("init", demo=demo)
    with served(archive.parent) as url:
        cluster = demo / "cluster.yaml"
        image = f"image: {{url: {url}/{archive.name}}}"
        cluster.write_text(cluster.read_text().replace("#image: hypriotos-1.12.3", image, 1))
        print(f"(cluster.yaml now has: {image})")
        piflash("check", demo=demo)
        piflash("--node", "pi1", "pi1.img", "--yes", demo=demo)
    show_card(demo / "pi1.img")
    print(
        f"""
demo/pi1.img is a whole card. With real Pis you would now:
  1. edit cluster.yaml (yours is made by `piflash init`)
  2. piflash devices                      which card readers can be written
  3. piflash --node pi1 /dev/sdX          once per Pi
  4. put the cards in and power on
Look further:
  cd {demo.name}; export PIFLASH_CACHE=$PWD/cache
  ../.venv/bin/piflash render --node pi1 -o seed
  ../.venv/bin/piflash --node pi2 pi2.img --node pi3 pi3.img"""
    )


if __name__ == "__main__":
    main()
