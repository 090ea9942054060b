"""One network, one base image, one set of cards and one fleet of machines for all e2e tests."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("tests.e2e.checks")

from tests.e2e import cast  # noqa: E402
from tests.e2e.base import base_image  # noqa: E402
from tests.e2e.cards import Stage, write_cards  # noqa: E402
from tests.e2e.fleet import Fleet  # noqa: E402
from tests.e2e.foreign import NATIVE  # noqa: E402
from tests.e2e.lan import home  # noqa: E402
from tests.e2e.scenes import Story  # noqa: E402
from tests.support import tools  # noqa: E402

ARCH = os.environ.get("PIFLASH_E2E_ARCH", "amd64")
QEMU = {"amd64": "qemu-system-x86_64", "armhf": "qemu-system-arm"}
TOOLS = (
    *("dnsmasq", "ip", "setpriv", "ssh", "ssh-keygen", "mmdebstrap"),
    *("mkfs.vfat", "fsck.vfat", "mcopy", "mtype", "mdel", "mke2fs", "e2fsck"),
)
LAST_LINES = 6
_notes: list[str] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On an architecture that is not the machine's own, only a few scenes play."""
    if ARCH not in QEMU:
        raise pytest.UsageError(f"PIFLASH_E2E_ARCH={ARCH}: not one of {', '.join(QEMU)}")
    if ARCH == NATIVE:
        return
    mine = [item for item in items if _scene(item) in (None, *cast.ON_ARM)]
    config.hook.pytest_deselected(items=[item for item in items if item not in mine])
    items[:] = mine


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The network, and one written card per node."""
    tools.need_root()
    tools.need(*TOOLS, QEMU[ARCH])
    directory = tmp_path_factory.mktemp("e2e")
    begun = time.monotonic()
    base = base_image(ARCH)
    size = base.archive.stat().st_size >> 20
    _notes.append(f"base image {base.archive.name}, {size} MiB: {time.monotonic() - begun:.0f} s")
    try:
        with home(directory) as lan:
            yield write_cards(directory, base, lan)
    finally:
        # pytest keeps the directories of its last runs: the consoles are worth it, cards are not.
        for card in directory.rglob("*.img"):
            card.unlink()


@pytest.fixture(scope="session")
def fleet(stage: Stage, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """Every scene that a selected test asks for, begun at once."""
    wanted = {name for item in request.session.items if (name := _scene(item))}
    order = [name for name in cast.SCENES if name in wanted]
    fleet = Fleet(stage, cast.SCENES, wanted=order)
    try:
        yield fleet
    finally:
        fleet.close()
        _notes.extend(f"scene {name}: {seconds:.0f} s" for name, seconds in fleet.seconds.items())
        for name, story in fleet.told():
            boot = story.first
            _notes.append(f"{name}: settled {boot.seconds:.0f} s after power-on; its console then:")
            _notes.extend(f"    {line}" for line in boot.console.splitlines()[-LAST_LINES:])


@pytest.fixture
def story(fleet: Fleet, request: pytest.FixtureRequest) -> Story:
    """What the scene saw that the test's `scene` marker names."""
    name = _scene(request.node)
    assert name is not None, "this test names no scene"
    return fleet.story(name)


def _scene(item: pytest.Item) -> str | None:
    marker = item.get_closest_marker("scene")
    return marker.args[0] if marker else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how long each scene took."""
    if _notes:
        terminalreporter.section("virtual machines")
        for note in _notes:
            terminalreporter.line(note)
