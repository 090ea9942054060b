"""The refusals, as a truth table (cases/safety) and as properties."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flasher import safety
from flasher.model import BlockDevice, Bus, DeviceKind, Mount

CASES = sorted((Path(__file__).parent / "cases" / "safety").glob("*.json"))

# A microSD card of 32 GB in a USB reader, unmounted: the one that may be written.
CARD = BlockDevice(
    path="/dev/sdb",
    name="sdb",
    number=(8, 16),
    whole_disk=True,
    parent=None,
    size=31_914_983_424,
    sector_size=512,
    bus=Bus.USB,
    removable=True,
    read_only=False,
    vendor="Generic",
    model="STORAGE DEVICE",
    serial="000000000272",
    diskseq=17,
    backing_file=None,
    partitions=("sdb1",),
    mounts=(),
    users=(),
    system=False,
)

NEVER = frozenset(
    {
        "partition",
        "not-a-card",
        "system",
        "mounted",
        "swap",
        "in-use",
        "empty",
        "read-only",
        "too-small",
        "internal",
        "no-rights",
    }
)


def device_of(fields: dict[str, object]) -> BlockDevice:
    made = dict(fields)
    if "bus" in made:
        made["bus"] = Bus(made["bus"])
    if "kind" in made:
        made["kind"] = DeviceKind[str(made["kind"])]
    if "mounts" in made:
        made["mounts"] = tuple(Mount(*mount) for mount in made["mounts"])
    for name in ("partitions", "users", "unexplained"):
        if name in made:
            made[name] = tuple(made[name])
    return replace(CARD, **made)


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 25


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_judges_case(path: Path) -> None:
    case = json.loads(path.read_text())
    device = device_of(case["device"])
    refusals = safety.judge(
        device, need=case.get("need", 1_363_148_800), allow=case.get("allow", [])
    )
    assert [refusal.code for refusal in refusals] == case["refused"]
    for text in case.get("says", []):
        assert any(text in f"{refusal.reason} | {refusal.remedy}" for refusal in refusals), refusals


def test_every_code_has_a_case() -> None:
    seen = {code for path in CASES for code in json.loads(path.read_text())["refused"]}
    assert seen == set(safety.CODES)


def test_codes_are_stable() -> None:
    assert set(safety.CODES) - safety.OVERRIDABLE == NEVER
    assert (
        frozenset({"unexplained", "not-removable", "soldered", "large-disk", "volume-member"})
        == safety.OVERRIDABLE
    )


devices = st.builds(
    replace,
    st.just(CARD),
    whole_disk=st.booleans(),
    parent=st.sampled_from([None, "/dev/sda"]),
    size=st.sampled_from([0, 512, 2 * 10**9, 31_914_983_424, 4 * 10**12]),
    bus=st.sampled_from(Bus),
    kind=st.sampled_from(DeviceKind),
    removable=st.booleans(),
    read_only=st.booleans(),
    mounts=st.sampled_from([(), (Mount("/dev/sdb1", "/media/a b"),), (Mount("/dev/sdb2", "/"),)]),
    users=st.sampled_from([(), ("swap",), ("dm-0",), ("dm-0", "swap")]),
    system=st.booleans(),
    writable=st.booleans(),
    member=st.sampled_from(["", "LVM2_member"]),
    backing_file=st.sampled_from([None, "/tmp/a.img", "/tmp/a.img (deleted)", "/dev/sda"]),
    unexplained=st.sampled_from([(), ("nobody knows",)]),
)


@settings(max_examples=50)
@given(devices, st.sets(st.sampled_from(safety.CODES)))
def test_allow_lifts_exactly_what_it_names_and_may_lift(
    device: BlockDevice, allow: set[str]
) -> None:
    without = safety.judge(device, need=10**9, allow=())
    expected = tuple(r for r in without if not (r.overridable and r.code in allow))
    assert safety.judge(device, need=10**9, allow=allow) == expected


@settings(max_examples=50)
@given(devices)
def test_writes_only_what_is_whole_idle_writable_and_attached_as_a_card(
    device: BlockDevice,
) -> None:
    if safety.judge(device, need=10**9, allow=safety.OVERRIDABLE):
        return
    assert device.whole_disk
    assert not device.mounts
    assert not device.users
    assert not device.system
    assert not device.read_only
    assert device.writable
    assert device.size >= 10**9
    assert device.kind in (
        DeviceKind.DISK,
        DeviceKind.SD,
        DeviceKind.EMMC,
        DeviceKind.LOOP,
        DeviceKind.UNKNOWN,
    )
    assert device.kind is not DeviceKind.DISK or device.bus is not Bus.OTHER or device.removable


@settings(max_examples=50)
@given(devices)
def test_every_refusal_has_a_reason_that_names_the_device_and_a_remedy(device: BlockDevice) -> None:
    for refusal in safety.judge(device, need=10**9, allow=()):
        assert device.path in refusal.reason
        assert refusal.remedy
        # Whoever shows refusals shows the list of candidates too.
        assert "piflash devices" not in refusal.remedy


ODD = "/dev/my card's; x"


@pytest.mark.parametrize(
    "changes",
    [
        {"mounts": (Mount("/dev/sdb1", ODD),)},
        {"users": ("dm-0",)},
        {"kind": DeviceKind.LOOP, "backing_file": "/tmp/x (deleted)"},
        {"kind": DeviceKind.LOOP, "read_only": True},
        {"kind": DeviceKind.LOOP, "size": 0, "backing_file": "/tmp/it's"},
        {"kind": DeviceKind.LOOP, "size": 0},
        {"kind": DeviceKind.UNKNOWN},
        {"size": 10**12},
        {"member": "LVM2_member"},
    ],
)
def test_commands_of_a_remedy_can_be_pasted(changes: dict[str, object]) -> None:
    (refusal,) = safety.judge(replace(CARD, path=ODD, **changes), need=10**9, allow=())
    assert shlex.quote(ODD) in refusal.remedy
    shlex.split(refusal.remedy)  # an apostrophe that is not quoted would not be closed


def test_candidates_are_those_that_need_no_override() -> None:
    ssd = replace(CARD, path="/dev/sdc", removable=False)
    small = replace(CARD, path="/dev/sdd", size=10**6)
    sudo = replace(CARD, path="/dev/sde", writable=False)
    assert safety.candidates([ssd, CARD, small, sudo], need=10**9) == (CARD, sudo)
