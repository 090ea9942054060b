"""Where things lie on the Pi: on the boot partition (FAT) and on the root file system (ext4). Pure.

Everything is below two directories, so that tests can use others than /boot and /.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from firstboot import nodeconfig

STATE_DIR = "var/lib/piflash"


@dataclass(frozen=True)
class Layout:
    """The two file systems by their mount points."""

    boot: str
    root: str

    @property
    def card_node_json(self) -> str:
        """node.json as the card's writer left it."""
        return os.path.join(self.boot, nodeconfig.NODE_JSON)

    @property
    def card_identity(self) -> str:
        """The identity on FAT, until it has been imported."""
        return os.path.join(self.boot, nodeconfig.IDENTITY_DIR)

    @property
    def status_txt(self) -> str:
        """What a person reads who puts the card into a computer."""
        return os.path.join(self.boot, nodeconfig.STATUS_TXT)

    @property
    def state(self) -> str:
        """The service's own directory on ext4."""
        return os.path.join(self.root, STATE_DIR)

    @property
    def node_json(self) -> str:
        """node.json after the import."""
        return os.path.join(self.state, "node.json")

    @property
    def identity(self) -> str:
        """The identity after the import; it exists only as a whole."""
        return os.path.join(self.state, "identity")

    @property
    def memory(self) -> str:
        """What the node keeps from boot to boot (memory.py)."""
        return os.path.join(self.state, "memory")

    @property
    def tick(self) -> str:
        """The last time of day that was kept (clock.py)."""
        return os.path.join(self.state, "tick")

    @property
    def docker(self) -> str:
        """The engine's own directory."""
        return os.path.join(self.root, "var/lib/docker")

    @property
    def docker_socket(self) -> str:
        """Where the engine listens. Below the root too: a test never meets the host's engine."""
        return os.path.join(self.root, "var/run/docker.sock")

    @property
    def scrubbed(self) -> str:
        """There once no secret of the user-data is left outside of its place (scrub.py)."""
        return os.path.join(self.state, "scrubbed")

    @property
    def cloud_instances(self) -> str:
        """What cloud-init keeps of each instance."""
        return os.path.join(self.root, "var/lib/cloud/instances")

    @property
    def first_boot_done(self) -> str:
        """The card's runcmd got to its end."""
        return os.path.join(self.root, "var/lib/cloud/instance/piflash-done")

    @property
    def cloud_init_ended(self) -> str:
        """cloud-init ran through all its stages in this boot."""
        return os.path.join(self.root, "run/cloud-init/result.json")
