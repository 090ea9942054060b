"""What the tests of the lab share: the compiled clock, the Python of the nodes, a base image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lab import cards, clocks, figures, pythons
from tests.lab.cards import Cluster
from tests.lab.clocks import Clock
from tests.lab.figures import note as note
from tests.lab.lab import Lab
from tests.lab.program import FLASHED, Telling
from tests.support import tools

PROGRAMS = ("dockerd", "docker", "iptables", "ip", "busybox", "tini", "gcc", "setpriv", "unshare")
CARD_TOOLS = ("nsenter", "pgrep", "mkfs.vfat", "mcopy", "mke2fs")
STORIES = "test_hardships.py"
ALONE = ("test_forming.py", "test_conformance.py")
SHAPES = {"1+3": (1, 3), "3+2": (3, 2)}
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


@pytest.fixture(scope="session")
def old_cards(
    base: Path, library: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Cluster]:
    """The same two, written years ago."""
    clock = Clock(tmp_path_factory.mktemp("then") / "clock")
    clock.shift(FLASHED)
    then = clock.environment(library)
    return {
        shape: _written(tmp_path_factory, base, managers=managers, workers=workers, at=then)
        for shape, (managers, workers) in SHAPES.items()
    }


def _written(
    factory: pytest.TempPathFactory,
    base: Path,
    *,
    managers: int,
    workers: int,
    at: Mapping[str, str] | None = None,
) -> Cluster:
    directory = factory.mktemp("cards") / "cluster"
    cluster = cards.describe(directory, base, managers=managers, workers=workers)
    cluster.flash(environment=at)
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


@pytest.fixture(scope="session")
def told(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    base: Path,
    python: str,
    library: Path,
) -> Iterator[Telling]:
    """Every story that a selected test asks for."""
    wanted = {
        str(item.callspec.params["seed"])
        for item in request.session.items
        if item.path.name == STORIES and isinstance(item, pytest.Function)
    }
    kept = {"1+3": "four", "3+2": "five"}
    made = {
        shape: request.getfixturevalue(name)
        for shape, name in kept.items()
        if any(one.startswith(shape) for one in wanted)
    }
    old = request.getfixturevalue("old_cards") if any("clocks" in one for one in wanted) else {}

    def stage(seed: str) -> Lab:
        shape = seed.split()[0]
        cluster = (old if "clocks" in seed else made)[shape]
        if "again" in seed:
            managers, workers = SHAPES[shape]
            cluster = _written(tmp_path_factory, base, managers=managers, workers=workers)
        return Lab(tmp_path_factory.mktemp("story"), cluster, python=python, library=library)

    with Telling(wanted, stage) as telling:
        yield telling


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First what has the machine for itself; the stories last, while the others run beside."""
    ranks = {**dict.fromkeys(ALONE, 0), STORIES: 2}
    items.sort(key=lambda item: ranks.get(item.path.name, 1))


@pytest.fixture(autouse=True)
def _stories_beside(request: pytest.FixtureRequest) -> None:
    if request.path.name not in ALONE:
        request.getfixturevalue("told")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell the figures."""
    lines = figures.table()
    if lines:
        terminalreporter.section("lab")
    for line in lines:
        terminalreporter.line(line)
