"""Why a node makes no progress, and what a person can do: the closed list of BLOCKED. Pure data.

`{seed}` and `{name}` are filled in by the status; docs/troubleshooting.md has the same list.
"""

from __future__ import annotations

from typing import Mapping

REASONS: Mapping[str, str] = {
    "card": "flash this card again: piflash --node {name} TARGET",
    "docker": "on the node: systemctl status docker; journalctl -m -u docker",
    "no-permit": "flash {name} again from the directory of its cluster file",
    "swarm-lost": "the swarm's database was on this node: flash it again, which founds a new one",
    "superseded": "a newer card of {name} exists: take this one out, or flash it again",
    "refused": "see the reason; flash {name} again from the directory of its cluster file",
    "no-leader": "turn on {seed} and see that it is on the same network",
    "managers-silent": "turn on every other manager; if most of them are lost for good: piflash "
    "--node {name} --rebuild TARGET, which founds a new swarm without the services of the old one",
    "no-quorum": "turn on the other managers",
    "cut-off": "nothing may filter TCP 2377 and 7946, UDP 7946 and 4789 between the nodes; on the "
    "node: journalctl -m -u docker; systemctl restart docker",
    "promotion": "a manager that is off keeps others from becoming one: turn it on, or flash it "
    "again; see why on {seed}",
    "foreign-swarm": "piflash did not found this swarm: docker swarm leave --force",
    "swarm-error": "on the node: docker info; journalctl -m -u docker; if it stays: flash it again",
    "clock": "see that the nodes can reach an NTP server; see why for how far they are apart",
    "disk": "the card is full or cannot be written: on the node: df -h; docker system prune; if it "
    "stays: flash {name} again",
    "stuck": "the same step fails again and again: see why, and `journalctl -m -u piflash`",
    "name-taken": "two cards of {name} run at once: turn one of them off",
    "locked": "this swarm is autolocked, which piflash does not use: docker swarm unlock",
    "fault": "see `journalctl -m -u piflash` on the node",
}
