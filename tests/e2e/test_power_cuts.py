"""The power goes at ten moments of the first boot; the next power-on completes it."""

from __future__ import annotations

import pytest

from tests.e2e import cast, checks
from tests.e2e.scenes import Story

# The cuts that are surely in the middle of what cloud-init does once: its `init` stage has begun
# to write files, and the end of runcmd is not reached.
IN_THE_MIDDLE = ("Generating", "Listening", "running 'modules")


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
    if marker.startswith(IN_THE_MIDDLE):
        assert story.notes["again"] == 1
    assert checks.failing(story.first, checks.EVERY_BOOT) == {}
    assert story.notes["fsck"] == ""
