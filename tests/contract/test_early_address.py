"""Before dockerd starts: a member's address, put up by the real command with an `ip` that tells."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from firstboot.importer import import_card
from firstboot.layout import Layout
from firstboot.node import NODE_CERTIFICATE
from tests.lab import clocks
from tests.lab.clocks import Clock
from tests.support.identity import NOW
from tests.support.tools import need, need_root
from tests.unit.firstboot.card import insert

ROOT = Path(__file__).parents[2]
IP = """\
#!/bin/sh
echo "$@" >>{log}
case $* in
  *show*) echo '2: eth0 inet {there}/24 scope global eth0' ;;
  *) echo '{said}'; exit {code} ;;
esac
"""
TORN = "piflash: early: swarm/state.json was torn; it is kept as swarm/state.json.broken"
RAISED = "-4 addr replace 198.18.0.11/24 dev eth0 label eth0:1"


def early(
    layout: Layout,
    tmp_path: Path,
    *,
    there: str,
    said: str = "",
    code: int = 0,
    clock: Mapping[str, str] | None = None,
) -> str:
    """Run it; give what `ip` was told to do, and after it what was logged."""
    program, log = tmp_path / "bin/ip", tmp_path / "ip.log"
    program.parent.mkdir()
    program.write_text(IP.format(log=log, there=there, said=said, code=code))
    program.chmod(0o755)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "firstboot", "early"),
            *("--boot", layout.boot, "--root", layout.root),
        ],
        cwd=ROOT,
        env={**os.environ, **(clock or {}), "PATH": f"{program.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return (log.read_text() if log.exists() else "") + done.stderr


@pytest.fixture
def member(tmp_path: Path) -> Layout:
    """A node that was imported and is in a swarm."""
    layout = insert(tmp_path)
    import_card(layout)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    then = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
    made = x509.CertificateBuilder(name, name, key.public_key(), 7, then, then.replace(year=2030))
    path = Path(layout.docker, NODE_CERTIFICATE)
    path.parent.mkdir(parents=True)
    pem = made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    path.write_bytes(pem)
    return layout


def test_a_members_address_is_put_up_before_dockerd_looks_for_its_managers(
    member: Layout, tmp_path: Path
) -> None:
    assert early(member, tmp_path, there="192.0.2.1").splitlines()[-1] == RAISED


def test_an_address_that_is_there_is_left_alone(member: Layout, tmp_path: Path) -> None:
    said = early(member, tmp_path, there="198.18.0.11").splitlines()
    assert said == ["-4 -o addr show dev eth0"]


def test_an_address_that_cannot_be_put_up_is_told_and_dockerd_starts(
    member: Layout, tmp_path: Path
) -> None:
    said = early(member, tmp_path, there="192.0.2.1", said="Cannot find device", code=1)
    assert said.splitlines()[-1].startswith("piflash: early: ip addr replace 198.18.0.11/24 dev")
    assert "Cannot find device" in said


def test_a_node_outside_of_a_swarm_is_left_to_the_service(tmp_path: Path) -> None:
    layout = insert(tmp_path)
    import_card(layout)
    assert early(layout, tmp_path, there="192.0.2.1") == ""


def test_a_torn_file_that_cannot_be_put_aside_keeps_nothing_else_from_being_done(
    member: Layout, tmp_path: Path
) -> None:
    """On a disk that is full: then the swarm's state cannot be written anew."""
    need_root()
    need("gcc", "mount", "umount")
    library, clock = clocks.build(tmp_path), Clock(tmp_path / "clock")
    clock.shift(NOW - 1000.0 - time.time())
    swarm = Path(member.docker, "swarm")
    kept = {path: path.read_bytes() for path in swarm.rglob("*.crt")}
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", swarm], check=True)
    try:
        (swarm / "certificates").mkdir()
        for path, content in kept.items():
            path.write_bytes(content)
        for name in ("docker-state.json", "state.json"):
            (swarm / name).write_bytes(b"{")
        with pytest.raises(OSError, match="No space left"):
            (swarm / "filler").write_bytes(bytes(1 << 20))
        environment = clock.environment(library)
        said = early(member, tmp_path, there="192.0.2.1", clock=environment).splitlines()
        left = {path.name for path in swarm.iterdir()}
    finally:
        subprocess.run(["umount", swarm], check=True)
    assert said == [
        "-4 -o addr show dev eth0",
        RAISED,
        "piflash: early: the clock was behind; it is at its floor now",
        f"piflash: early: {swarm}/docker-state.json.broken: No space left on device",
        TORN,
    ]
    assert NOW <= clock.time < NOW + 60
    assert {"docker-state.json", "state.json.broken"} < left


def test_a_description_of_the_node_that_cannot_be_read_ends_nothing_else(
    member: Layout, tmp_path: Path
) -> None:
    Path(member.node_json).unlink()
    Path(member.node_json).mkdir()
    state = Path(member.docker, "swarm/state.json")
    state.write_bytes(b"")
    assert early(member, tmp_path, there="192.0.2.1").splitlines() == [
        f"piflash: early: {member.node_json}: Is a directory",
        TORN,
    ]
    assert not state.exists()
