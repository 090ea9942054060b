"""What the tests of the lab share: the compiled clock, the Python of the nodes, a base image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lab import cards, clocks, figures, pythons
from tests.lab.cards import Cluster
from tests.lab.figures import note as note
from tests.lab.lab import Lab
from tests.support import tools

PROGRAMS = ("dockerd", "docker", "iptables", "ip", "busybox", "tini", "gcc", "setpriv", "unshare")
CARD_TOOLS = ("nsenter", "mkfs.vfat", "mcopy", "mke2fs")
MakeLab = Callable[[Cluster], Lab]


@pytest.fixture(scope="session")
def _tools() -> None:
    tools.need_root()
    tools.need(*PROGRAMS, *CARD_TOOLS)


@pytest.fixture(scope="session")
def library(_tools: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clock, compiled."""
    return clocks.build(tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="session")
def python() -> str:
    """What the nodes' python3 is."""
    found = pythons.oldest()
    figures.note("the nodes' service runs on", Path(found).name)
    return found


@pytest.fixture(scope="session")
def base(_tools: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image that all cards are made from."""
    return cards.base_image(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def four(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """One manager, three workers, with their cards."""
    return _written(tmp_path_factory, base, managers=1, workers=3)


@pytest.fixture(scope="session")
def five(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """Three managers, two workers, with their cards."""
    return _written(tmp_path_factory, base, managers=3, workers=2)


@pytest.fixture(scope="session")
def twenty(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """One manager, 19 workers, with their cards."""
    return _written(tmp_path_factory, base, managers=1, workers=19)


def _written(
    factory: pytest.TempPathFactory, base: Path, *, managers: int, workers: int
) -> Cluster:
    directory = factory.mktemp("cards") / "cluster"
    cluster = cards.describe(directory, base, managers=managers, workers=workers)
    cluster.flash()
    return cluster


@pytest.fixture
def make_lab(
    tmp_path_factory: pytest.TempPathFactory, python: str, library: Path
) -> Iterator[MakeLab]:
    """Makes labs, and takes them down at the end of the test if it has not done so itself."""
    with ExitStack() as stack:
        yield lambda cluster: stack.enter_context(
            Lab(tmp_path_factory.mktemp("lab"), cluster, python=python, library=library)
        )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell the figures."""
    lines = figures.table()
    if lines:
        terminalreporter.section("lab")
    for line in lines:
        terminalreporter.line(line)
