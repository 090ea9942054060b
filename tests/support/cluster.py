"""Cluster files for tests that are about something else."""

from __future__ import annotations

from pathlib import Path

SSH_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFBpZmxhc2hEZW1vS2V5Tm9Qcml2YXRlSGFsZkV4aXN0 demo"

CLUSTER = """\
name: home
image: {image}
timezone: Europe/Berlin
user:
  ssh_authorized_keys:
  - {key}
nodes:
  pi1: {{role: manager}}
  pi2: {{role: worker}}
  pi3: {{role: worker}}
  pi4: {{role: worker}}
"""


def write_cluster(directory: Path, *, image: str, extra: str = "") -> Path:
    """Write a valid four-node cluster file and give its path."""
    path = directory / "cluster.yaml"
    path.write_text(CLUSTER.format(image=image, key=SSH_KEY) + extra)
    return path
