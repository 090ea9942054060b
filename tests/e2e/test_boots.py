"""Cards that `piflash` wrote boot into the node that the cluster file describes, every time."""

from __future__ import annotations

import re

import pytest

from tests.e2e import checks
from tests.e2e.checks import EVERY_BOOT, WITHOUT_NETWORK
from tests.e2e.scenes import AGAIN, Story

SIGHTS = {
    "static, clock at 1970, first boot": ("static", 0, EVERY_BOOT),
    "static, second boot": ("static", 1, EVERY_BOOT),
    "static, tenth boot": ("static", 2, EVERY_BOOT),
    "dhcp, clock at 2019, first boot": ("dhcp", 0, EVERY_BOOT),
    "dhcp, second boot": ("dhcp", 1, EVERY_BOOT),
    "dhcp answers late, after the first boot": ("late router", 1, EVERY_BOOT),
    "wifi only, first boot": ("wifi", 0, WITHOUT_NETWORK),
    "wifi only, second boot": ("wifi", 1, WITHOUT_NETWORK),
}


@pytest.mark.parametrize(
    ("number", "check"),
    [
        pytest.param(number, check, id=f"{name}: {what}", marks=pytest.mark.scene(scene))
        for name, (scene, number, all_checks) in SIGHTS.items()
        for what, check in all_checks.items()
    ],
)
def test_guest(story: Story, number: int, check: checks.Check) -> None:
    check(story.sights[number])


@pytest.mark.scene("static")
@pytest.mark.parametrize(("sight", "boot"), [(1, 2), (2, 10)])
def test_later_boot_changes_nothing(story: Story, sight: int, boot: int) -> None:
    assert story.sights[sight].boot == boot
    assert checks.changes(story.first, story.sights[sight]) == {}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.scene(name)) for name in ("dhcp", "wifi")]
)
def test_second_boot_changes_nothing(story: Story, name: str) -> None:
    assert [sight.boot for sight in story.sights] == [1, 2]
    assert checks.changes(story.first, story.sights[1]) == {}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.scene(name))
        for name in ("static", "dhcp", "wifi", "late router")
    ],
)
def test_a_first_boot_that_nothing_cut_off_does_not_start_again(story: Story, name: str) -> None:
    assert story.first.boot == 1
    assert AGAIN not in story.console


@pytest.mark.scene("static")
def test_node_service_comes_back_after_a_crash(story: Story) -> None:
    before, after, state = story.notes["crash"]
    assert (before != after, after != "0", state) == (True, True, "active")


@pytest.mark.scene("static")
def test_key_is_nowhere_on_the_boot_partition_any_more(story: Story) -> None:
    """Not in a file and not in what was one."""
    written, left = story.notes["keys"]
    assert written > 0
    assert left == 0


@pytest.mark.scene("dhcp")
def test_a_container_runs_with_a_limit_and_the_log_driver_of_daemon_json(story: Story) -> None:
    assert story.notes["container"] == ["33554432", "aye", "aye", "json-file", "1m"]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.scene(name)) for name in ("static", "dhcp")]
)
def test_card_that_was_turned_off_is_clean(story: Story, name: str) -> None:
    assert story.notes["fsck"] == ""


@pytest.mark.scene("static")
def test_status_txt_can_be_read_in_another_computer(story: Story) -> None:
    text = story.notes["status.txt"]
    assert text.startswith("node:       pi1\n")
    assert text.strip() == story.notes["last said"].strip().replace("\r", "")


@pytest.mark.scene("static")
def test_first_power_on_grows_the_root_and_reboots(story: Story) -> None:
    assert story.console.count("init_resize: p2 fills the card") == 1


@pytest.mark.scene("late router")
def test_boot_without_a_router_waits_dhclients_minute_at_most(story: Story) -> None:
    failing = checks.failing(story.first, EVERY_BOOT)
    assert set(failing) == {"lan_address", "login_over_ssh"}
    before, after = (
        float(re.findall(rf"running '{stage}' at .* Up ([0-9.]+) seconds", story.console)[-1])
        for stage in ("init-local", "init")
    )
    # dhclient gives up after 60 s (dhclient.conf(5), timeout), if it was asked that early at all.
    assert after - before < 120
