"""firstboot.repair against a real dockerd: what ends it at its start, and how it goes on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from firstboot import repair
from tests.support import dockerd
from tests.support.dockerd import EndedError, Machines
from tests.support.engines import Machine, until

IMAGES = "image/overlay2/repositories.json"
TORN = [
    (repair.STATE, b""),
    (repair.STATE, b'{"LocalAddr": "1'),
    (repair.STATE, b"{}"),
    (repair.REMOTES, b""),
    (repair.REMOTES, b"\0\0\0\0"),
    (IMAGES, b""),
    (IMAGES, b"\0\0\0\0"),
    (IMAGES, b"[]"),
    (IMAGES, b"null"),
]


@pytest.fixture(scope="module")
def founder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A sole manager, which is off."""
    dockerd.need()
    with Machines(tmp_path_factory.mktemp("machines")) as machines:
        machine = machines.make("pi1")
        machine.power_on()
        one = Machine(machine)
        one.docker.init(one.address, epoch=3, charter="")
        until(lambda: one.swarm() is not None)
        machine.pull_the_plug()
        for part in ("swarm", "image"):
            shutil.copytree(machine.data / part, machine.data.parent / "kept" / part)
        yield one


@pytest.fixture
def off(founder: Machine) -> Machine:
    """It, with its swarm as founded."""
    machine = founder.machine
    machine.pull_the_plug()
    for part in ("swarm", "image"):
        shutil.rmtree(machine.data / part)
        shutil.copytree(machine.data.parent / "kept" / part, machine.data / part)
    return founder


@pytest.mark.parametrize(("name", "content"), TORN)
def test_what_ends_dockerd_is_put_aside_and_the_swarm_goes_on(
    name: str, content: bytes, off: Machine
) -> None:
    path = off.machine.data / name
    path.write_bytes(content)
    with pytest.raises(EndedError):
        off.machine.power_on()
    off.machine.pull_the_plug()
    assert repair.put_aside(str(off.machine.data), address=off.address) == [name]
    assert Path(f"{path}.broken").read_bytes() == content
    assert repair.put_aside(str(off.machine.data), address=off.address) == []
    off.machine.power_on()
    until(lambda: (swarm := off.swarm()) is not None and swarm.epoch == 3)
    (entry,) = off.entries().values()
    assert (entry.id, entry.ready, entry.address) == (off.engine().node_id, True, off.address)


@pytest.mark.parametrize(
    ("name", "content"), [(repair.REMOTES, b"null"), (repair.REMOTES, b"[]"), (IMAGES, b"{}")]
)
def test_what_dockerd_starts_with_stays(name: str, content: bytes, off: Machine) -> None:
    path = off.machine.data / name
    path.write_bytes(content)
    assert repair.put_aside(str(off.machine.data), address=off.address) == []
    off.machine.power_on()


def test_without_a_certificate_there_is_no_swarm_to_keep(off: Machine) -> None:
    os.truncate(off.machine.data / repair.STATE, 0)
    os.truncate(off.machine.data / repair.CERTIFICATE, 0)
    assert repair.put_aside(str(off.machine.data), address=off.address) == [repair.STATE]
    assert not (off.machine.data / repair.STATE).exists()
    off.machine.power_on()
    assert off.engine().state == "inactive"
