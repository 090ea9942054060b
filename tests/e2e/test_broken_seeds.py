"""The harness can fail: a seed that is damaged on purpose does not pass the checks."""

from __future__ import annotations

import pytest

from tests.e2e import checks
from tests.e2e.scenes import Story

# What must be among the failing checks; the guest's cloud-init is 20.4.1.
CAUGHT_BY = {
    "meta-data missing": {"hostname", "user_and_key", "login_over_ssh", "firstboot_installed"},
    "tab in user-data": {"user_and_key", "login_over_ssh", "firstboot_installed"},
    "wrong instance-id key": {"instance_id"},
    "network-config wrapped": {"network_config_is_bare"},
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.scene(name)) for name in CAUGHT_BY]
)
def test_broken_seed_is_caught(story: Story, name: str) -> None:
    failing = checks.failing(story.first, checks.EVERY_BOOT)
    assert set(failing) >= CAUGHT_BY[name]
