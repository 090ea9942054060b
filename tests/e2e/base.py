"""Builds the base image that the virtual machines boot: Debian bullseye in the shape of HypriotOS.

Shell. Built once and kept in the user's cache directory under the hash of everything it is made of.
What differs from HypriotOS 1.12.3 is listed in docs/hypriotos.md.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from tests.e2e import foreign
from tests.support import baseimage
from tests.support.baseimage import Geometry
from tests.support.debian import codename, debian_mirror

HERE = Path(__file__).parent
SUITE = "bullseye"
IMAGE = "hypriotos-shaped-{arch}.img"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

# HypriotOS 1.12.3: p2 has 2529279 sectors and the image ends with it (1300 MiB).
GEOMETRY = Geometry(boot_mib=64, root_mib=1235)

# The kernel is the cloud flavour where there is one: it has few modules and starts fast.
KERNELS = {"amd64": "linux-image-cloud-amd64", "armhf": "linux-image-armmp"}
CONSOLES = {"amd64": "ttyS0", "armhf": "ttyAMA0"}
PACKAGES = [
    "systemd-sysv",
    "libpam-systemd",
    "udev",
    "dbus",
    "kmod",
    "initramfs-tools",
    "zstd",
    "ifupdown",
    "isc-dhcp-client",
    "resolvconf",
    "iproute2",
    "iptables",
    "wpasupplicant",
    "iputils-ping",
    "netbase",
    "openssh-server",
    "avahi-daemon",
    "ntp",
    "fake-hwclock",
    "sudo",
    "locales",
    "tzdata",
    "parted",
    "fdisk",
    "e2fsprogs",
    "dosfstools",
    "procps",
    "ca-certificates",
    "cloud-init",
    "python3",
    "docker.io",
]
# virtio_mmio is the bus of the ARM machine; virtio_console is there for the probe, early.
INITRAMFS_MODULES = ("virtio_blk", "virtio_pci", "virtio_mmio", "virtio_console", "ext4")

FSTAB = """\
proc /proc proc defaults 0 0
PARTUUID={signature:08x}-01 /boot vfat defaults 0 0
PARTUUID={signature:08x}-02 / ext4 defaults,noatime 0 1
"""
CMDLINE = (
    "console=tty1 console={console},115200 root=PARTUUID={signature:08x}-02 rootfstype=ext4 "
    "cgroup_enable=cpuset cgroup_enable=memory swapaccount=1 elevator=deadline fsck.repair=yes "
    "rootwait quiet init=/usr/lib/raspi-config/init_resize.sh\n"
)
# HypriotOS 1.12.3 is from July 2020: what its fake clock says.
FAKE_CLOCK = "2020-07-02 13:17:01\n"
UNUSED = 86400.0  # seconds after which an old image is dropped
SAME_MACHINE_ID = "0123456789abcdef0123456789abcdef\n"


@dataclass(frozen=True)
class Base:
    """The zipped image in a directory of its own, with its checksum file beside it."""

    directory: Path
    arch: str
    seconds: float

    @property
    def archive(self) -> Path:
        return self.directory / (IMAGE.format(arch=self.arch) + ".zip")


def base_image(arch: str) -> Base:
    """Give the base image, building it if nobody has done so from the same inputs."""
    begun = time.monotonic()
    directory = _once("image", arch, _image_inputs(arch), _build)
    return Base(directory, arch, time.monotonic() - begun)


def _once(what: str, arch: str, inputs: Iterable[bytes], build: Callable[..., None]) -> Path:
    """Make a directory whole or not at all, named by what goes into it; drop old ones."""
    digest = hashlib.sha256()
    for part in inputs:
        digest.update(b"%d:" % len(part) + part)
    cache = Path(platformdirs.user_cache_dir("piflash-tests"))
    cache.mkdir(parents=True, exist_ok=True)
    directory = cache / f"e2e-{what}-{arch}-{digest.hexdigest()[:16]}"
    with (cache / f"e2e-{what}-{arch}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / ".complete").exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            build(directory, arch=arch)
            (directory / ".complete").touch()
        os.utime(directory)
        for old in cache.glob(f"e2e-{what}-{arch}-*"):
            # Another checkout may be serving it at this moment.
            if time.time() - old.stat().st_mtime > UNUSED:
                shutil.rmtree(old, ignore_errors=True)
    return directory


def _root_inputs(arch: str) -> list[bytes]:
    return [text.encode() for text in (SUITE, *_bootstrap(arch))]


def _image_inputs(arch: str) -> list[bytes]:
    files = (Path(__file__), Path(baseimage.__file__), *sorted((HERE / "base").iterdir()))
    return [*_root_inputs(arch), *(path.read_bytes() for path in files)]


def _build_root(directory: Path, *, arch: str) -> None:
    mirror = debian_mirror(Path("/etc/apt"), release=codename())
    if mirror is None:
        raise RuntimeError("/etc/apt names no Debian mirror to build the base image from")
    source = f"deb [signed-by={mirror.signed_by or KEYRING}] {mirror.uri} {SUITE} main"
    target = str(directory / "root.tar")
    foreign.run(arch, "mmdebstrap", *_bootstrap(arch), SUITE, target, source)


def _build(directory: Path, *, arch: str) -> None:
    archive = _once("root", arch, _root_inputs(arch), _build_root) / "root.tar"
    root = directory / "root"
    root.mkdir()
    baseimage.run("tar", "--numeric-owner", "--xattrs", "-xpf", archive, "-C", root)
    _shape(root, arch=arch)
    raw = directory / IMAGE.format(arch=arch)
    baseimage.build(raw, geometry=GEOMETRY, files=_take_boot(root), root_tree=root)
    shutil.rmtree(root)
    zipped = baseimage.zip_image(raw, raw.with_name(raw.name + ".zip"), level=1)
    raw.unlink()
    digest = hashlib.sha256(zipped.read_bytes()).hexdigest()
    Path(f"{zipped}.sha256").write_text(f"{digest}  {zipped.name}\n")


def _bootstrap(arch: str) -> list[str]:
    """The options of mmdebstrap: they, and the suite, are all that the root depends on."""
    return [
        *("--mode=root", "--variant=minbase", f"--architectures={arch}"),
        *('--aptopt=Acquire::Languages "none"', '--aptopt=Acquire::Check-Valid-Until "false"'),
        *("--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/doc/*"),
        f"--include={','.join((*PACKAGES, KERNELS[arch]))}",
        *(f"--customize-hook={line}" for line in _hooks()),
    ]


def _hooks() -> Iterator[str]:
    """What has to run inside the root: generated locales, and a small initramfs."""
    modules = "\\n".join(INITRAMFS_MODULES)
    yield """echo en_US.UTF-8 UTF-8 >"$1/etc/locale.gen" && chroot "$1" locale-gen"""
    yield f"""printf '{modules}\\n' >"$1/etc/initramfs-tools/modules" """
    yield """echo MODULES=list >"$1/etc/initramfs-tools/conf.d/piflash" """
    yield """echo COMPRESS=zstd >>"$1/etc/initramfs-tools/conf.d/piflash" """
    yield """chroot "$1" update-initramfs -u -k all"""


def _shape(root: Path, *, arch: str) -> None:
    """Turn a plain Debian root into what the card's owner knows as HypriotOS."""
    signature = baseimage.SIGNATURE
    write = _writer(root)
    write("etc/fstab", FSTAB.format(signature=signature))
    write("etc/hostname", "black-pearl\n")
    write("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 black-pearl\n")
    write("etc/machine-id", SAME_MACHINE_ID)
    write("etc/network/interfaces", "source /etc/network/interfaces.d/*\n")
    write("etc/cloud/cloud.cfg", (HERE / "base/cloud.cfg").read_text())
    write("etc/apt/sources.list", "deb http://raspbian.raspberrypi.org/raspbian/ buster main\n")
    write("etc/default/locale", "LANG=en_US.UTF-8\n")
    for name in ("init_resize.sh",):
        write(f"usr/lib/raspi-config/{name}", (HERE / "base" / name).read_text(), mode=0o755)
    write(
        "var/lib/cloud/scripts/per-once/regenerate-machine-id",
        "#!/bin/sh\ndbus-uuidgen >/etc/machine-id\n",
        mode=0o755,
    )
    write(
        "etc/systemd/system/fake-hwclock.service.d/override.conf",
        "[Unit]\nBefore=systemd-fsck-root.service\n",
    )
    for seed in ("user-data", "meta-data", "network-config"):
        _link(root / "var/lib/cloud/seed/nocloud-net" / seed, f"/boot/{seed}")
    _link(root / "etc/fake-hwclock.data", "/boot/fake-hwclock.data")
    for masked in (
        "etc/systemd/network/99-default.link",
        "etc/systemd/system/systemd-resolved.service",
        # Not HypriotOS: its package timers would take the emulated processor for minutes.
        "etc/systemd/system/apt-daily.timer",
        "etc/systemd/system/apt-daily-upgrade.timer",
    ):
        _link(root / masked, "/dev/null")
    _name_network_file_as_before(root)
    # Debian buster has none, so its journal is kept in memory.
    shutil.rmtree(root / "var/log/journal", ignore_errors=True)
    for stale in (*root.glob("var/cache/apt/*.bin"), *root.glob("var/log/**/*.log")):
        stale.unlink()
    write("boot/cmdline.txt", CMDLINE.format(console=CONSOLES[arch], signature=signature))


def _name_network_file_as_before(root: Path) -> None:
    """Let cloud-init 20.4 write the interfaces file under the name that 18.3 has for it."""
    (module,) = root.glob("usr/lib/python3/dist-packages/cloudinit/distros/debian.py")
    text = module.read_text()
    new = text.replace('interfaces.d/50-cloud-init"', 'interfaces.d/50-cloud-init.cfg"')
    if new == text:
        raise RuntimeError(f"{module}: names no interfaces file")
    module.write_text(new)


def _writer(root: Path) -> Callable[..., None]:
    def write(name: str, text: str, *, mode: int = 0o644) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(mode)

    return write


def _link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def _take_boot(root: Path) -> dict[str, bytes]:
    """Give what belongs on the FAT and leave /boot of the root empty, as it is on the Pi."""
    boot = root / "boot"
    (kernel,) = boot.glob("vmlinuz-*")
    (initrd,) = boot.glob("initrd.img-*")
    files = dict(baseimage.BOOT_FILES)
    files["cmdline.txt"] = (boot / "cmdline.txt").read_bytes()
    files["fake-hwclock.data"] = FAKE_CLOCK.encode()
    files["kernel7.img"] = kernel.read_bytes()
    files["initrd.img"] = initrd.read_bytes()
    shutil.rmtree(boot)
    boot.mkdir()
    return files
