"""The power goes at ten moments of the first boot; the next power-on completes it."""

from __future__ import annotations

import pytest

from tests.e2e import cast, checks
from tests.e2e.scenes import FINISHED, Story


@pytest.mark.parametrize(
    "marker",
    [
        pytest.param(
            marker,
            id=f"{delay} s after {marker}, cache={cache}",
            marks=pytest.mark.scene(f"cut-{number}"),
        )
        for number, (marker, delay, cache) in enumerate(cast.CUTS, 1)
    ],
)
def test_next_boot_completes(story: Story, marker: str) -> None:
    assert story.notes["finished before"] == (marker == FINISHED)
    assert checks.failing(story.first, checks.EVERY_BOOT) == {}
    assert story.notes["fsck"] == ""
