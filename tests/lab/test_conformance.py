"""Real dockerds and the simulator's fake ones give the same outcomes in one list of scenarios."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.lab.conformance import fake, real
from tests.lab.conformance.scenarios import SCENARIOS
from tests.lab.conformance.stage import Outcome
from tests.lab.conformance.steps import Scenario
from tests.lab.conftest import note
from tests.support import dockerd

AT_ONCE = 4  # of up to three engines each, which mostly wait
Played = tuple[list[Outcome], float]


@pytest.fixture(scope="module")
def played(
    request: pytest.FixtureRequest, library: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Played]]]:
    """What came of each selected scenario, or will."""
    dockerd.need()

    def play(scenario: Scenario) -> Played:
        begun = time.monotonic()
        directory = tmp_path_factory.mktemp("stage")
        return real.play(scenario, directory, library=library), time.monotonic() - begun

    here = [item for item in request.session.items if item.path == request.path]
    wanted = [item.callspec.params["scenario"] for item in here if hasattr(item, "callspec")]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {scenario.name: pool.submit(play, scenario) for scenario in wanted}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_real_engines_and_fake_ones_give_the_same(
    scenario: Scenario, played: dict[str, Future[Played]]
) -> None:
    outcomes, seconds = played[scenario.name].result(timeout=1200)
    faked = fake.play(scenario)
    told = [_told(one, scenario) for one in (faked, outcomes)]
    note(f"{scenario.name:<46}{scenario.facts:<10}{told[0]:<16}{told[1]:<16}{seconds:6.1f} s")
    report = "\n".join(["real:", *map(str, outcomes), "fake:", *map(str, faked)])
    assert [one.gave for one in outcomes] == [step.gives for step in scenario.steps], report
    assert [one.gave for one in faked] == [one.gave for one in outcomes], report


def _told(outcomes: list[Outcome], scenario: Scenario) -> str:
    same = sum(one.as_wanted for one in outcomes)
    return f"{same} of {len(scenario.steps)}"
