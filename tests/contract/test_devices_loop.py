"""Refusals, and the claim's second look, on real loop devices."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from flasher import devices, safety
from flasher.claim import claim
from flasher.errors import DeviceRefusedError, PiflashError, WriteError
from flasher.model import MIB, BlockDevice, Image, ImageFile
from tests.support import loopdev
from tests.support.tools import need, need_root

NEED = 32 * MIB

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def _tools() -> None:
    need_root()
    need("losetup", "mkfs.ext4", "mount", "umount", "mkswap", "swapon", "swapoff", "unshare")


def run(*argv: str | Path) -> None:
    subprocess.run([str(a) for a in argv], check=True, capture_output=True, timeout=60)


def codes(path: str, *, allow: tuple[str, ...] = ()) -> list[str]:
    target = devices.what_is(path)
    assert isinstance(target, BlockDevice)
    return [refusal.code for refusal in safety.judge(target, need=NEED, allow=allow)]


# --- block devices, by what judge() says -------------------------------------------------------


@contextmanager
def mounted(device: str, directory: Path, *options: str) -> Iterator[Path]:
    point = directory / "mnt"
    point.mkdir(exist_ok=True)
    run("mount", *options, device, point)
    try:
        yield point
    finally:
        run("umount", point)


@contextmanager
def plain(tmp: Path) -> Iterator[str]:
    with loopdev.card(tmp) as device:
        yield device


@contextmanager
def sized(tmp: Path, *, size: int) -> Iterator[str]:
    with loopdev.card(tmp, size=size) as device:
        yield device


@contextmanager
def unbound(tmp: Path) -> Iterator[str]:
    yield loopdev.losetup("--find")


@contextmanager
def read_only(tmp: Path) -> Iterator[str]:
    with loopdev.card(tmp, "--read-only") as device:
        yield device


@contextmanager
def holding_ext4(tmp: Path, *, at: int = 0) -> Iterator[str]:
    file = loopdev.make_file(tmp / "card", size=64 * MIB)
    run("mkfs.ext4", "-q", "-F", "-E", f"offset={at}", file, f"{(64 * MIB - at) // 1024}k")
    with loopdev.loop(file) as device:
        yield device


@contextmanager
def with_mounted_ext4(tmp: Path) -> Iterator[str]:
    with holding_ext4(tmp) as device, mounted(device, tmp):
        yield device


@contextmanager
def with_mounted_read_only_ext4(tmp: Path) -> Iterator[str]:
    with holding_ext4(tmp) as device, mounted(device, tmp, "-o", "ro"):
        yield device


@contextmanager
def with_bind_mount_only(tmp: Path) -> Iterator[str]:
    """A directory of the card is still mounted elsewhere after the card itself was unmounted."""
    elsewhere = tmp / "elsewhere"
    elsewhere.mkdir()
    with ExitStack() as stack:
        device = stack.enter_context(holding_ext4(tmp))
        with mounted(device, tmp) as point:
            run("mount", "--bind", point / "lost+found", elsewhere)
            stack.callback(run, "umount", elsewhere)
        yield device


@contextmanager
def with_mounted_partition(tmp: Path) -> Iterator[str]:
    """The way a partition is mounted where the kernel does not scan: a loop at its offset."""
    with (
        holding_ext4(tmp, at=8 * MIB) as device,
        loopdev.loop(device, "--offset", str(8 * MIB)) as partition,
        mounted(partition, tmp),
    ):
        yield device


@contextmanager
def under_idle_loop(tmp: Path) -> Iterator[str]:
    with loopdev.card(tmp) as device, loopdev.loop(device):
        yield device


@contextmanager
def over_loop(tmp: Path) -> Iterator[str]:
    with loopdev.card(tmp) as device, loopdev.loop(device) as upper:
        yield upper


@contextmanager
def as_swap(tmp: Path) -> Iterator[str]:
    with loopdev.card(tmp) as device:
        run("mkswap", device)
        run("swapon", device)
        try:
            yield device
        finally:
            run("swapoff", device)


@contextmanager
def with_swap_file(tmp: Path) -> Iterator[str]:
    with holding_ext4(tmp) as device, mounted(device, tmp) as point:
        file = point / "swap file"
        with file.open("wb") as out:
            out.write(bytes(16 * MIB))
        file.chmod(0o600)
        run("mkswap", file)
        run("swapon", file)
        try:
            yield device
        finally:
            run("swapoff", file)


@contextmanager
def with_deleted_file(tmp: Path) -> Iterator[str]:
    with loopdev.card(tmp) as device:
        (tmp / "card").unlink()
        yield device


@contextmanager
def with_bytes(tmp: Path, *, at: int, data: bytes) -> Iterator[str]:
    file = loopdev.make_file(tmp / "card", size=64 * MIB)
    with file.open("r+b") as out:
        out.seek(at)
        out.write(data)
    with loopdev.loop(file) as device:
        yield device


@contextmanager
def by_symlink(tmp: Path) -> Iterator[str]:
    with with_mounted_ext4(tmp) as device:
        link = tmp / "by-id"
        link.symlink_to(device)
        yield str(link)


@contextmanager
def by_other_node(tmp: Path) -> Iterator[str]:
    """The device is known by its number, whatever its node is called."""
    with with_mounted_ext4(tmp) as device:
        node = tmp / "innocent"
        os.mknod(node, stat.S_IFBLK | 0o600, os.stat(device).st_rdev)
        yield str(node)


@contextmanager
def system_disk(tmp: Path) -> Iterator[str]:
    number = os.stat("/").st_dev
    name = os.path.basename(
        os.path.realpath(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    )
    if not os.path.exists(f"/dev/{name}"):
        pytest.skip("the root file system is on no disk of /dev")
    yield f"/dev/{name}"


@contextmanager
def ram_disk(tmp: Path) -> Iterator[str]:
    if not os.path.exists("/dev/zram0"):
        pytest.skip("this kernel has no zram")
    yield "/dev/zram0"


LVM = b"LABELONE" + bytes(16) + b"LVM2 001"
MD = b"\xfc\x4e\x2b\xa9\x01\0\0\0"

Setup = Callable[[Path], AbstractContextManager[str]]
DEVICE_CASES: dict[str, tuple[Setup, list[str]]] = {
    "loop over a file": (plain, []),
    "loop just large enough": (lambda t: sized(t, size=NEED), []),
    "loop one sector too small": (lambda t: sized(t, size=NEED - 512), ["too-small"]),
    "loop over an empty file": (lambda t: sized(t, size=0), ["empty"]),
    "loop without a file": (unbound, ["empty"]),
    "read-only loop": (read_only, ["read-only"]),
    "unmounted ext4": (holding_ext4, []),
    "mounted ext4": (with_mounted_ext4, ["mounted"]),
    "ext4 mounted read-only": (with_mounted_read_only_ext4, ["mounted"]),
    "bind mount left over": (with_bind_mount_only, ["mounted"]),
    "mounted partition": (with_mounted_partition, ["mounted", "in-use"]),
    "under an idle loop": (under_idle_loop, ["in-use"]),
    "loop over a device": (over_loop, ["not-a-card"]),
    "swap": (as_swap, ["system", "swap"]),
    "swap file on it": (with_swap_file, ["system", "mounted", "swap"]),
    "deleted backing file": (with_deleted_file, ["not-a-card"]),
    "LVM label": (lambda t: with_bytes(t, at=512, data=LVM), ["volume-member"]),
    "md superblock 1.2": (lambda t: with_bytes(t, at=4096, data=MD), ["volume-member"]),
    "md superblock 1.1": (lambda t: with_bytes(t, at=0, data=MD), ["volume-member"]),
    "symbolic link": (by_symlink, ["mounted"]),
    "another device node": (by_other_node, ["mounted"]),
    "system disk": (system_disk, ["system", "mounted", "internal"]),
    "RAM disk": (ram_disk, ["not-a-card", "empty"]),
}


@pytest.mark.parametrize("name", DEVICE_CASES)
def test_judges_device(name: str, tmp_path: Path) -> None:
    setup, expected = DEVICE_CASES[name]
    with setup(tmp_path) as path:
        assert codes(path) == expected
        # What must never be lifted is not lifted by naming every code there is.
        never = [code for code in expected if code not in safety.OVERRIDABLE]
        assert codes(path, allow=safety.CODES) == never


def test_mounts_are_named_with_their_points(tmp_path: Path) -> None:
    with with_mounted_partition(tmp_path) as path:
        device = devices.examine(path)
        refusal = safety.judge(device, need=NEED, allow=())[0]
    assert f"umount {tmp_path / 'mnt'}" in refusal.remedy
    assert device.mounts[0].source != path  # it is the partition that is mounted


def test_examine_describes_a_loop_device(tmp_path: Path) -> None:
    with loopdev.card(tmp_path, "--sector-size", "4096", size=40 * MIB) as path:
        device = devices.examine(path)
        assert device in devices.list_devices()
        assert device.size == 40 * MIB
        assert device.sector_size == 4096
        assert device.backing_file == str(tmp_path / "card")
        assert device.diskseq is None or device.diskseq > 0
        assert device.whole_disk
        status = os.stat(path)
    assert device.number == (os.major(status.st_rdev), os.minor(status.st_rdev))


# --- what is no block device, by what_is() -----------------------------------------------------


@contextmanager
def regular_file_in_dev(tmp: Path) -> Iterator[str]:
    path = f"/dev/piflash-test-{os.getpid()}"
    try:
        Path(path).write_bytes(b"written by an earlier dd")
        yield path
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)


@contextmanager
def img_file_in_dev(tmp: Path) -> Iterator[str]:
    yield f"/dev/piflash-test-{os.getpid()}.img"


@contextmanager
def link_to_file_in_dev(tmp: Path) -> Iterator[str]:
    with regular_file_in_dev(tmp) as path:
        (tmp / "card.img").symlink_to(path)
        yield str(tmp / "card.img")


@contextmanager
def in_tmp(tmp: Path, *, name: str, make: Callable[[Path], object]) -> Iterator[str]:
    make(tmp / name)
    yield str(tmp / name)


@contextmanager
def unknown_number(tmp: Path) -> Iterator[str]:
    node = tmp / "sdz"
    os.mknod(node, stat.S_IFBLK | 0o600, os.makedev(240, 77))
    yield str(node)


@contextmanager
def named(path: str) -> Iterator[str]:
    yield path


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


PATH_CASES: dict[str, tuple[Setup, str]] = {
    "file in /dev": (regular_file_in_dev, "regular file in /dev"),
    "new .img file in /dev": (img_file_in_dev, "not plugged in"),
    "link to a file in /dev": (link_to_file_in_dev, "regular file in /dev"),
    "directory": (lambda t: in_tmp(t, name="d.img", make=Path.mkdir), "is a directory"),
    "character device": (lambda t: named("/dev/null"), "character device"),
    "pipe": (lambda t: in_tmp(t, name="p.img", make=os.mkfifo), "pipe or a socket"),
    "socket": (lambda t: in_tmp(t, name="s.img", make=make_socket), "pipe or a socket"),
    "no such device": (lambda t: named("/dev/sdzz9"), "not plugged in"),
    "dangling link into /dev": (
        lambda t: in_tmp(t, name="by-id", make=lambda p: p.symlink_to("/dev/sdzz9")),
        "not plugged in",
    ),
    "file of another ending": (
        lambda t: in_tmp(t, name="card.iso", make=Path.touch),
        "neither a block device nor a file ending in .img",
    ),
    "new file of another ending": (lambda t: named(str(t / "pi1")), "neither a block device"),
    "only the ending": (lambda t: named(str(t / ".img")), "neither a block device"),
    "no such directory": (lambda t: named(str(t / "no" / "card.img")), "no directory"),
    "below a file": (
        lambda t: in_tmp(t, name="f/card.img", make=lambda p: p.parent.touch()),
        "Not a directory",
    ),
    "name too long": (lambda t: named(str(t / ("x" * 300 + ".img"))), "too long"),
    "number that the kernel does not know": (unknown_number, "not plugged in"),
}


@pytest.mark.parametrize("name", PATH_CASES)
def test_refuses_path(name: str, tmp_path: Path) -> None:
    setup, text = PATH_CASES[name]
    with setup(tmp_path) as path:
        with pytest.raises(DeviceRefusedError, match=text) as caught:
            devices.what_is(path)
        assert caught.value.hint


def test_name_of_a_device_without_its_directory_is_recognised(tmp_path: Path) -> None:
    with (
        loopdev.card(tmp_path) as path,
        pytest.raises(DeviceRefusedError, match="neither a block device") as caught,
    ):
        devices.what_is(Path(path).name)
    assert caught.value.hint == f"name the device itself: {path}"


@pytest.mark.parametrize("name", ["no such directory", "file in /dev"])
def test_commands_of_a_hint_can_be_pasted(name: str, tmp_path: Path) -> None:
    odd = tmp_path / "my cards'"
    with PATH_CASES[name][0](odd) as path, pytest.raises(DeviceRefusedError) as caught:
        devices.what_is(path)
    argv = shlex.split(caught.value.hint.partition("; ")[0])
    assert argv[-1] in (path, os.path.dirname(path))


def test_there_are_more_than_25_refusals_here() -> None:
    refused = [expected for _, expected in DEVICE_CASES.values() if expected]
    assert len(refused) + len(PATH_CASES) >= 25


def test_takes_new_and_existing_img_files(tmp_path: Path) -> None:
    file = tmp_path / "pi1.img"
    assert devices.what_is(str(file)) == ImageFile(file, None)
    file.write_bytes(b"12345")
    assert devices.what_is(str(file)) == ImageFile(file, 5, version=devices.file_version(file))
    (tmp_path / "link.img").symlink_to(file)
    found = ImageFile(file, 5, version=devices.file_version(file))
    assert devices.what_is(str(tmp_path / "link.img")) == found


# --- the claim: what changed between the question and the write ---------------------------------

OTHER_HOLDER = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | (os.O_EXCL if sys.argv[2] == "excl" else 0))
if sys.argv[2] == "flock":
    fcntl.flock(fd, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held_by_another(device: str, how: str) -> Iterator[None]:
    with subprocess.Popen(
        [sys.executable, "-c", OTHER_HOLDER, device, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout
        assert child.stdin
        assert child.stdout.readline() == b"held\n"
        yield
        child.stdin.close()


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return loopdev.make_image(tmp_path, loopdev.image_bytes(8 * MIB))


def refused(device: BlockDevice, image: Image) -> PiflashError:
    with pytest.raises(DeviceRefusedError) as caught, claim(loopdev.make_plan(device, image)):
        pytest.fail("claimed what it must not")
    assert caught.value.hint
    return caught.value


def test_claims_an_idle_card_exclusively(tmp_path: Path, image: Image) -> None:
    with loopdev.card(tmp_path) as path:
        device = devices.examine(path)
        with claim(loopdev.make_plan(device, image)) as claimed:
            assert claimed.io.direct
            assert claimed.size == 64 * MIB
            assert "in use by" in str(refused(device, image))
        with claim(loopdev.make_plan(device, image)):
            pass


@pytest.mark.parametrize("how", ["excl", "flock"])
def test_claim_refuses_what_another_program_holds(how: str, tmp_path: Path, image: Image) -> None:
    with loopdev.card(tmp_path) as path:
        device = devices.examine(path)
        with held_by_another(path, how):
            assert "another program" in str(refused(device, image))


def test_claim_refuses_what_was_mounted_after_the_question(tmp_path: Path, image: Image) -> None:
    with holding_ext4(tmp_path) as path:
        device = devices.examine(path)
        with mounted(path, tmp_path) as point:
            error = refused(device, image)
            assert f"umount {point}" in error.hint
            assert str(point) in error.message


def test_claim_refuses_what_is_mounted_in_another_namespace(tmp_path: Path, image: Image) -> None:
    point = tmp_path / "hidden"
    point.mkdir()
    script = f'mount "$1" {point} && echo held && read -r _; umount {point}'
    with (
        holding_ext4(tmp_path) as path,
        subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as child,
    ):
        assert child.stdout
        assert child.stdin
        assert child.stdout.readline() == b"held\n"
        device = devices.examine(path)
        assert safety.judge(device, need=NEED, allow=()) == ()  # not to be seen from here
        assert "another namespace" in str(refused(device, image))
        child.stdin.close()


def test_claim_refuses_a_loop_stacked_on_the_card_after_the_question(
    tmp_path: Path, image: Image
) -> None:
    # The kernel lets O_EXCL through here: a loop device opens the one below it shared.
    with loopdev.card(tmp_path) as path:
        device = devices.examine(path)
        with loopdev.loop(path) as upper:
            assert os.path.basename(upper) in str(refused(device, image))


def swap_cards(tmp: Path, path: str, *, size: int, name: str) -> None:
    loopdev.losetup("--detach", path)
    loopdev.losetup(path, loopdev.make_file(tmp / name, size=size))


@pytest.mark.parametrize(
    ("name", "size", "what"),
    [
        ("other", 48 * MIB, "size"),
        ("other", 64 * MIB, "sequence number|backing file"),
        ("card", 64 * MIB, "sequence number"),
    ],
    ids=["another size", "another file", "taken out and put back"],
)
def test_claim_refuses_a_card_swapped_after_the_question(
    name: str, size: int, what: str, tmp_path: Path, image: Image
) -> None:
    with loopdev.card(tmp_path) as path:
        device = devices.examine(path)
        if name == "card" and device.diskseq is None:
            pytest.skip("this kernel counts no media (before 5.15)")
        swap_cards(tmp_path, path, size=size, name=name)
        error = refused(device, image)
        assert re.search(what, error.message)
        assert "not the card that was confirmed" in error.message
        assert not (tmp_path / name).read_bytes().strip(b"\0")  # nothing was written


def test_claim_compares_what_the_card_calls_itself(tmp_path: Path, image: Image) -> None:
    with loopdev.card(tmp_path) as path:
        device = devices.examine(path)
        for other in (
            replace(device, serial="0x1234"),
            replace(device, model="Ultra"),
            replace(device, number=(device.number[0], device.number[1] + 1)),
            replace(device, backing_file="/srv/other"),
        ):
            assert "not the card that was confirmed" in str(refused(other, image))


def test_claim_refuses_a_reader_that_was_emptied(tmp_path: Path, image: Image) -> None:
    with loopdev.card(tmp_path) as path:
        device = devices.examine(path)
    assert "not the card that was confirmed" in str(refused(device, image)) or "gone" in str(
        refused(device, image)
    )


def test_claim_refuses_a_card_whose_lock_switch_was_moved(tmp_path: Path, image: Image) -> None:
    with loopdev.card(tmp_path) as path:
        device = devices.examine(path)
        run("blockdev", "--setro", path)
        try:
            assert "read-only" in str(refused(device, image))
        finally:
            run("blockdev", "--setrw", path)


def test_claim_refuses_the_base_image_as_the_card(tmp_path: Path, image: Image) -> None:
    with loopdev.loop(image.path) as path:
        assert "base image itself" in str(refused(devices.examine(path), image))
    (tmp_path / "link.img").hardlink_to(image.path)
    target = devices.what_is(str(tmp_path / "link.img"))
    with (
        pytest.raises(DeviceRefusedError, match="base image itself"),
        claim(loopdev.make_plan(target, image)),
    ):
        pass


def test_claim_tells_a_user_without_rights_what_to_type(tmp_path: Path, image: Image) -> None:
    with loopdev.card(tmp_path) as path:
        device = devices.examine(path)
        with as_nobody():
            error = refused(device, image)
    assert "sudo" in error.hint


@contextmanager
def as_nobody() -> Iterator[None]:
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def test_user_without_rights_is_refused_before_any_question(tmp_path: Path) -> None:
    with loopdev.card(tmp_path) as path:
        assert codes(path) == []
        with as_nobody():
            assert codes(path, allow=safety.CODES) == ["no-rights"]
        os.chmod(path, 0o666)
        try:
            with as_nobody():
                assert codes(path) == []
        finally:
            os.chmod(path, 0o660)


def test_claim_refuses_a_card_file_that_another_run_writes(tmp_path: Path, image: Image) -> None:
    partial = tmp_path / "pi1.img.piflash-partial"
    plan = loopdev.make_plan(ImageFile(tmp_path / "pi1.img", None), image)
    with partial.open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DeviceRefusedError, match="another piflash"), claim(plan):
            pass
    with claim(plan):  # and a dead run's leftover is replaced
        pass
    assert not partial.exists()


# --- files behind loop devices ------------------------------------------------------------------


def test_claim_refuses_a_file_that_is_attached_twice(tmp_path: Path, image: Image) -> None:
    """O_EXCL holds one loop device; what is mounted through the other would be destroyed."""
    with loopdev.card(tmp_path) as path:
        device = devices.examine(path)
        linked = tmp_path / "another-name"
        linked.hardlink_to(tmp_path / "card")
        with loopdev.loop(linked) as second:
            error = refused(device, image)
        assert second in error.message
        assert f"losetup -d {second}" in error.hint
        assert not refusals_of(device)


def refusals_of(device: BlockDevice) -> tuple[safety.Refusal, ...]:
    return safety.judge(device, need=0, allow=())


def test_claim_knows_the_base_image_by_its_inode(tmp_path: Path, image: Image) -> None:
    """A container's name for a file says nothing here."""
    hidden = tmp_path / "hidden"
    hidden.hardlink_to(image.path)
    with loopdev.loop(hidden) as path:
        device = devices.examine(path)
        hidden.unlink()
        device = replace(device, backing_file=devices.examine(path).backing_file)
        error = refused(device, image)
    assert "base image itself" in error.message


def test_claim_keeps_a_file_that_appeared_after_the_question(tmp_path: Path, image: Image) -> None:
    file = tmp_path / "late.img"
    target = devices.what_is(str(file))
    assert isinstance(target, ImageFile)
    with pytest.raises(DeviceRefusedError, match="it is kept"):  # noqa: SIM117, PT012
        with claim(loopdev.make_plan(target, image)) as claimed:
            file.write_bytes(b"the only copy")
            claimed.keep()
    assert file.read_bytes() == b"the only copy"
    assert [path.name for path in tmp_path.glob("late*")] == ["late.img"]


def test_claim_leaves_a_strangers_partial_alone(tmp_path: Path, image: Image) -> None:
    mine = tmp_path / "pi1.img.partial"
    mine.write_bytes(b"half a download")
    with claim(loopdev.make_plan(ImageFile(tmp_path / "pi1.img", None), image)):
        pass
    assert mine.read_bytes() == b"half a download"


def test_claim_does_not_wait_for_a_pipe(tmp_path: Path, image: Image) -> None:
    os.mkfifo(tmp_path / "pi1.img.piflash-partial")
    with pytest.raises(DeviceRefusedError, match="in the way"):  # noqa: SIM117
        with claim(loopdev.make_plan(ImageFile(tmp_path / "pi1.img", None), image)):
            pass


def test_card_taken_away_while_it_is_written_is_not_put_in_place(
    tmp_path: Path, image: Image
) -> None:
    """Another run that took it for a leftover must not have its half-written card put in place."""
    partial = tmp_path / "pi1.img.piflash-partial"
    with pytest.raises(WriteError, match="taken away"):  # noqa: SIM117, PT012
        with claim(loopdev.make_plan(ImageFile(tmp_path / "pi1.img", None), image)) as claimed:
            partial.unlink()
            partial.write_bytes(b"another run's")
            claimed.keep()
    assert partial.read_bytes() == b"another run's"
    assert not (tmp_path / "pi1.img").exists()
