"""The frozen data that flows between the modules. No behaviour beyond naming and printing.

Units: sizes and offsets are bytes, times are UTC seconds since 1970 unless a name says otherwise.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

MIB = 1 << 20
YamlPath = tuple[str | int, ...]


class Secret:
    """A text that must never reach a log, a plan, an argv or an error: its repr is `***`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Give the text itself; only what writes it to its place may call this."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


class Role(enum.Enum):
    """What a node is in the swarm."""

    MANAGER = "manager"
    WORKER = "worker"


# --- texts of the user's, with places ----------------------------------------------------------


@dataclass(frozen=True)
class Location:
    """A place in a text file; line and column count from 1, as editors do."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Problem:
    """One thing wrong at one place: `cluster.yaml:12:5: nodes.pi1.role: ...`."""

    location: Location
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.location}: {self.path}: " if self.path else f"{self.location}: "
        return where + self.message


@dataclass(frozen=True)
class Document:
    """A parsed YAML file: its values, and where each path stands in the text.

    `keys` has the place of a mapping's key, `values` the place of the value itself.
    """

    file: str
    data: object
    keys: Mapping[YamlPath, Location] = field(repr=False)
    values: Mapping[YamlPath, Location] = field(repr=False)


@dataclass(frozen=True)
class ExtraConfig:
    """The user's own cloud-config, with the place of every path for messages.

    `path`: where it stands in the cluster file; empty for a file of its own.
    """

    data: Mapping[str, object]
    locations: Mapping[YamlPath, Location] = field(repr=False)
    path: YamlPath = ()


# --- the cluster --------------------------------------------------------------------------------


@dataclass(frozen=True)
class User:
    """Who may log in on every node."""

    name: str
    ssh_authorized_keys: tuple[str, ...]
    password_hash: Secret | None


@dataclass(frozen=True)
class Wifi:
    """A wireless network; `country` is the two-letter regulatory domain."""

    ssid: str
    psk: Secret
    country: str


@dataclass(frozen=True)
class LanAddress:
    """A static address in the home LAN. `address` has a prefix: 192.168.1.11/24."""

    address: str
    gateway: str | None
    dns: tuple[str, ...]


@dataclass(frozen=True)
class NodeSpec:
    """One Pi as the cluster file describes it. `cluster_address` has no prefix."""

    name: str
    role: Role
    seed: bool
    cluster_address: str
    lan: LanAddress | None
    wifi: Wifi | None
    ethernet: bool
    labels: Mapping[str, str]
    cloud_config: ExtraConfig | None


@dataclass(frozen=True)
class ImageRef:
    """What names a base image: a catalogue id, a path or a URL, and a hash of the user's if given.

    `profile` is the base image's profile for paths and URLs; None: the catalogue's own.
    """

    text: str
    sha256: str | None = None
    profile: str | None = None


@dataclass(frozen=True)
class ClusterSpec:
    """A valid cluster file. `nodes` keep the file's order; exactly one of them is the seed."""

    name: str
    image: ImageRef
    domain: str
    timezone: str
    user: User
    cluster_subnet: str
    nodes: tuple[NodeSpec, ...]
    stacks: Mapping[str, Mapping[str, object]]
    seccomp: str
    cloud_config: ExtraConfig | None

    def node(self, name: str) -> NodeSpec:
        """Give the node of that name; KeyError if there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    @property
    def managers(self) -> tuple[NodeSpec, ...]:
        """The nodes of role manager, in the file's order."""
        return tuple(node for node in self.nodes if node.role is Role.MANAGER)


# --- identity -----------------------------------------------------------------------------------


class PermitKind(enum.Enum):
    """Why a seed's card may run `swarm init` (docs/decisions, design of permits)."""

    GENESIS = "genesis"
    REJOIN = "rejoin"
    REBUILD = "rebuild"


@dataclass(frozen=True)
class Ticket:
    """What one flash of one node was given, before any key is made.

    `generation` counts the flashes of the node, `epoch` the foundings of the swarm; `permit` is set
    for the seed only. `flashed_at`: UTC seconds, the card's clock floor.
    """

    node: str
    generation: int
    epoch: int
    permit: PermitKind | None
    flashed_at: int


@dataclass(frozen=True)
class Identity:
    """What makes a card a member of its cluster.

    `permit_modulus`: the RSA modulus, in hex, that every permit of the cluster is checked with.
    `permit_json`: the signed permit, on the seed's card only; whoever holds it may found a swarm.
    `charter_json`: there with a permit, and no secret: the swarm's managers show it.
    """

    ca_pem: str
    cert_pem: str
    key_pem: Secret
    permit_modulus: str
    permit_json: Secret | None
    charter_json: str | None = field(repr=False)


# --- the seed, the image and the card -----------------------------------------------------------


@dataclass(frozen=True)
class SeedFile:
    """One file for the boot partition. `secret`: its content is masked wherever it is shown."""

    content: bytes = field(repr=False)
    secret: bool = False


@dataclass(frozen=True)
class Seed:
    """Everything that makes a base image this node's card: path on the boot partition -> file."""

    node: str
    instance_id: str
    files: Mapping[str, SeedFile]


class ReadAt(Protocol):
    """Random access to bytes that need not be in memory."""

    def read_at(self, offset: int, size: int) -> bytes:
        """Give exactly `size` bytes at `offset`; fewer only at the end."""


@dataclass(frozen=True)
class Run:
    """Bytes to put at an offset, over what the image holds there."""

    offset: int
    data: bytes = field(repr=False)

    @property
    def end(self) -> int:
        """The offset just after the run."""
        return self.offset + len(self.data)


@dataclass(frozen=True)
class Image:
    """A base image on disk, ready to be read.

    `sha256` is of the file as it lies there (of the zip, not of what is in it); `size` is that of
    the decompressed image where the catalogue or the container says it, else None. `cached`: the
    file is piflash's own download, not one of the user's.
    """

    id: str
    profile: str
    path: Path
    sha256: str | None
    size: int | None
    cached: bool = False


@dataclass(frozen=True)
class Partition:
    """One primary partition of an MBR."""

    number: int
    type: int
    offset: int
    size: int

    @property
    def end(self) -> int:
        """The offset just after the partition."""
        return self.offset + self.size


@dataclass(frozen=True)
class Mount:
    """A mounted file system on a device or one of its partitions."""

    source: str
    point: str


class Bus(enum.Enum):
    """How a block device is attached, as far as the kernel explains it."""

    USB = "usb"
    MMC = "mmc"
    LOOP = "loop"
    OTHER = "other"


class DeviceKind(enum.Enum):
    """What a block device is, by its driver; only the first four can be a card."""

    DISK = "disk"
    SD = "SD card"
    EMMC = "eMMC"
    LOOP = "loop device"
    EMMC_PART = "hardware partition of an eMMC"
    OPTICAL = "optical drive"
    FLOPPY = "floppy drive"
    MEMORY = "RAM disk"
    MAPPED = "device made of other devices"
    NETWORK = "network block device"
    UNKNOWN = "device of an unknown driver"


@dataclass(frozen=True)
class BlockDevice:
    """What the kernel says of a block device, at one moment.

    `diskseq` is the kernel's serial number of the medium (5.15 and later): another card, another
    number. `users` names what holds it: `swap`, `dm-0`, `md127`, ... `member`: the type of the
    volume that it, or a partition of it, is a part of (`LVM2_member`, `linux_raid_member`, ...).
    `writable`: the user may open it for reading and writing. `unexplained`: what could not be found
    out about it.
    """

    path: str
    name: str
    number: tuple[int, int]
    whole_disk: bool
    parent: str | None
    size: int
    sector_size: int
    bus: Bus
    removable: bool
    read_only: bool
    vendor: str
    model: str
    serial: str
    diskseq: int | None
    backing_file: str | None
    partitions: tuple[str, ...]
    mounts: tuple[Mount, ...]
    users: tuple[str, ...]
    system: bool
    kind: DeviceKind = DeviceKind.DISK
    member: str = ""
    writable: bool = True
    unexplained: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageFile:
    """A card as a file ending in .img, made anew. `replaces`: bytes of what stands there now.

    `version`: device, inode, size and time of it (devices.file_version), empty if there is nothing;
    what has changed since is not replaced. `holds`: whose card it is, in words; empty if it is no
    card of piflash, or not one that may be replaced without asking.
    """

    path: Path
    replaces: int | None
    version: tuple[int, ...] = ()
    holds: str = ""


Target = BlockDevice | ImageFile


# --- what a long job tells while it runs --------------------------------------------------------


class Phase(enum.Enum):
    """What a progress figure counts."""

    DOWNLOAD = "download"
    WRITE = "write"
    VERIFY = "verify"


class Progress(Protocol):
    """Where bytes done are reported; may be called from several threads at once."""

    def start(self, what: str, phase: Phase, total: int | None) -> None:
        """Begin counting bytes of `what` (a node's name, a file's name)."""

    def advance(self, what: str, phase: Phase, count: int) -> None:
        """Count `count` more bytes."""

    def finish(self, what: str, phase: Phase) -> None:
        """End counting, whether all came or not."""

    def say(self, line: str) -> None:
        """Print one line of talk without tearing the bars."""
