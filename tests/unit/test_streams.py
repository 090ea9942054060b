"""Images as streams: every container, every view size, every way to be wrong."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import random
import shlex
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flasher import streams
from flasher.errors import ImageError
from flasher.model import MIB, Image

Pack = Callable[[bytes], bytes]


def content(size: int, *, seed: int = 1) -> bytes:
    """Half noise, half not, as images are."""
    rng = random.Random(seed)
    return b"".join(
        rng.randbytes(4096) if rng.random() < 0.5 else bytes([rng.randrange(256)]) * 4096
        for _ in range(size // 4096 + 1)
    )[:size]


def zipped(
    data: bytes, *, method: int = zipfile.ZIP_DEFLATED, more: dict[str, bytes] | None = None
) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("base.img", data)
        for name, value in (more or {}).items():
            archive.writestr(name, value)
    return out.getvalue()


def zip_in_one_pass(data: bytes) -> bytes:
    """With a data descriptor behind the data, as `zip -` and streaming servers write it."""

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.parts: list[bytes] = []

        def writable(self) -> bool:
            return True

        def write(self, part: object) -> int:
            self.parts.append(bytes(part))  # type: ignore[call-overload]
            return len(self.parts[-1])

    pipe = Pipe()
    with (
        zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive,  # type: ignore[arg-type]
        archive.open("base.img", "w", force_zip64=True) as member,
    ):
        member.write(data)
    return b"".join(pipe.parts)


def skippable(data: bytes) -> bytes:
    return struct.pack("<II", 0x184D2A53, 5) + b"hello" + zstandard.compress(data)


def halves(pack: Pack) -> Pack:
    return lambda data: pack(data[: len(data) // 2]) + pack(data[len(data) // 2 :])


def unsized_zstd(data: bytes) -> bytes:
    packer = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    return packer.compress(data) + packer.flush()


CONTAINERS: dict[str, Pack] = {
    "raw": bytes,
    "zip": zipped,
    "zip stored": lambda data: zipped(data, method=zipfile.ZIP_STORED),
    "zip in one pass": zip_in_one_pass,
    "gzip": gzip.compress,
    "gzip members": halves(gzip.compress),
    "bzip2": bz2.compress,
    "bzip2 streams": halves(bz2.compress),
    "xz": lambda data: lzma.compress(data, preset=0),
    "xz streams": halves(lambda data: lzma.compress(data, preset=0)),
    "zstd": lambda data: zstandard.ZstdCompressor(write_checksum=True).compress(data),
    "zstd frames": halves(zstandard.compress),
    "zstd unsized": unsized_zstd,
    "zstd skippable": skippable,
}
SINGLE = [
    name for name in CONTAINERS if name.split()[-1] not in ("raw", "members", "streams", "frames")
]


def image(path: Path, data: bytes, *, sha256: str | None = None, size: int | None = None) -> Image:
    path.unlink(missing_ok=True)  # rewriting in place would wait for the disk (ext4)
    path.write_bytes(data)
    return Image("base", "hypriotos", path, sha256, size)


def read(image: Image, *, view: int = 1 << 16) -> bytes:
    """Read to the end and finish, in views of that many bytes."""
    out, buffer = [], bytearray(view)
    with streams.open_image(image) as stream:
        while count := stream.readinto(memoryview(buffer)):
            out.append(bytes(buffer[:count]))
            assert count == view or not stream.readinto(memoryview(bytearray(1)))
        stream.finish()
    return b"".join(out)


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_gives_the_image(name: str, tmp_path: Path) -> None:
    data = content(300_000)  # several times INPUT, once packed
    packed = CONTAINERS[name](data)
    digest = hashlib.sha256(packed).hexdigest()
    for view in (1000, 1 << 16, 1 << 19):
        assert read(image(tmp_path / "f", packed, sha256=digest), view=view) == data


@pytest.mark.parametrize("name", CONTAINERS)
@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(512, 70_000), st.integers(1, 80_000), st.integers(0, 9))
def test_sizes_of_view_and_image_do_not_matter(
    name: str, tmp_path: Path, size: int, view: int, seed: int
) -> None:
    data = content(size, seed=seed)
    view = max(view, size // 50)
    assert read(image(tmp_path / "f", CONTAINERS[name](data)), view=view) == data


@pytest.mark.parametrize(
    ("name", "known"),
    [("raw", True), ("zip", True), ("xz", True), ("xz streams", False), ("gzip", False)],
)
def test_size_is_told_where_the_container_knows_it(name: str, known: bool, tmp_path: Path) -> None:
    it = image(tmp_path / "f", CONTAINERS[name](content(100_000)))
    with streams.open_image(it) as stream:
        assert stream.size == (100_000 if known else None)


def test_catalogues_size_is_the_size_where_the_container_has_none(tmp_path: Path) -> None:
    it = image(tmp_path / "f", gzip.compress(content(100_000)), size=100_000)
    with streams.open_image(it) as stream:
        assert stream.size == 100_000


def test_view_is_filled_whole_and_nothing_behind_it(tmp_path: Path) -> None:
    it = image(tmp_path / "f", zipped(content(300_000)))
    whole = bytearray(b"\xee" * 300_010)
    with streams.open_image(it) as stream, memoryview(whole) as view:
        assert stream.readinto(view[:299_000]) == 299_000
        assert stream.readinto(view[299_000:]) == 1000
        assert stream.readinto(view) == 0
        stream.finish()
    assert bytes(whole[300_000:]) == b"\xee" * 10


@pytest.mark.parametrize("name", CONTAINERS)
def test_views_are_free_again_after_an_error(name: str, tmp_path: Path) -> None:
    packed = bytearray(CONTAINERS[name](content(100_000)))
    del packed[len(packed) // 2 :]
    buffer = bytearray(1 << 16)
    caught: list[ImageError] = []
    try:
        it = image(tmp_path / "f", bytes(packed), size=100_000)
        with streams.open_image(it) as stream, memoryview(buffer) as view:
            while stream.readinto(view):
                pass
    except ImageError as error:
        caught.append(error)
    assert caught
    buffer.append(0)  # BufferError if the error's traceback still held a view


@pytest.mark.parametrize("name", SINGLE)
def test_a_file_cut_off_anywhere_is_refused(name: str, tmp_path: Path) -> None:
    packed = CONTAINERS[name](content(40_000))
    places = {*range(1, 40, 3), *range(len(packed) - 40, len(packed), 2)}
    places |= set(range(40, len(packed), 2999))
    for place in sorted(places):
        with pytest.raises(ImageError):
            read(image(tmp_path / "f", packed[:place]))


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_flipped_bit_is_refused_when_the_hash_is_known(name: str, tmp_path: Path) -> None:
    packed = CONTAINERS[name](content(20_000))
    digest = hashlib.sha256(packed).hexdigest()
    rng = random.Random(7)
    near_the_ends = [*range(0, 40, 2), *range(len(packed) - 80, len(packed), 3)]
    for place in [*near_the_ends, *(rng.randrange(len(packed)) for _ in range(10))]:
        broken = bytearray(packed)
        broken[place] ^= 1 << rng.randrange(8)
        with pytest.raises(ImageError):
            read(image(tmp_path / "f", bytes(broken), sha256=digest))


UNCHECKED = ("raw", "zstd frames", "zstd skippable")  # made without a checksum


@pytest.mark.parametrize("name", [name for name in CONTAINERS if name not in UNCHECKED])
def test_a_flipped_bit_in_the_data_is_refused_without_a_hash(name: str, tmp_path: Path) -> None:
    data = content(60_000)
    packed = CONTAINERS[name](data)
    for place in range(200, len(packed) - 300, len(packed) // 8):
        broken = bytearray(packed)
        broken[place] ^= 0x10
        try:
            got = read(image(tmp_path / "f", bytes(broken)))
        except ImageError:
            continue
        assert got == data


@pytest.mark.parametrize("view", [1, 7, 64])
@pytest.mark.parametrize("name", ["zip", "gzip"])
def test_output_that_zlib_still_holds_after_all_input_is_read(
    name: str, view: int, tmp_path: Path
) -> None:
    """The last match of a long run goes on for many views after its last bit was taken in."""
    for size in (526, 1000, 1777):
        assert read(image(tmp_path / "f", CONTAINERS[name](bytes(size))), view=view) == bytes(size)


# --- zip ----------------------------------------------------------------------------------------


def test_macos_clutter_and_directories_do_not_count(tmp_path: Path) -> None:
    data = content(5000)
    packed = zipped(data, more={"__MACOSX/._base.img": b"fork", "folder/": b""})
    assert read(image(tmp_path / "f", packed)) == data


def test_image_need_not_be_the_first_in_the_zip(tmp_path: Path) -> None:
    out, data = io.BytesIO(), content(5000)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__MACOSX/._base.img", content(600_000))
        archive.writestr("base.img", data)
    digest = hashlib.sha256(out.getvalue()).hexdigest()
    assert read(image(tmp_path / "f", out.getvalue(), sha256=digest)) == data


@pytest.mark.parametrize(
    ("packed", "says"),
    [
        (zipped(content(5000), more={"two.img": b"second"}), "two.img"),
        (zipped(content(5000), method=zipfile.ZIP_BZIP2), "method 12"),
        (zipped(content(5000), method=zipfile.ZIP_LZMA), "method 14"),
        (b"PK\x05\x06" + b"\0" * 18, "nothing"),
    ],
)
def test_zip_without_exactly_one_readable_image_is_refused(
    packed: bytes, says: str, tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match=says) as caught:
        read(image(tmp_path / "f.zip", packed))
    assert "f.zip" in caught.value.message
    assert caught.value.hint


ESCAPE = "\x1b]0;title\x07\x9b2J\u202egnp.img"


@pytest.mark.parametrize(
    "packed",
    [
        zipped(content(5000), more={ESCAPE: b"second"}),
        zipped(content(5000)).replace(b"base.img", b"a\x1b[2J.im"),
    ],
    ids=["listed", "damaged"],
)
def test_name_in_a_zip_cannot_command_the_terminal(packed: bytes, tmp_path: Path) -> None:
    damaged = bytearray(packed)
    damaged[directory_at(packed) + 16] ^= 1  # the CRC-32
    with pytest.raises(ImageError, match=r"x1b") as caught:
        read(image(tmp_path / "f.zip", bytes(damaged)))
    assert caught.value.message.isprintable()


def directory_at(packed: bytes | bytearray) -> int:
    return packed.rindex(b"PK\x01\x02")


@pytest.mark.parametrize(
    ("offset", "value", "says"),
    [
        (8, b"\x01\x00", "encrypted"),
        (16, b"\x00\x00\x00\x00", "CRC-32"),
        (24, struct.pack("<I", 4999), "more data"),
        (24, struct.pack("<I", 5001), "1 bytes before"),
        (20, struct.pack("<I", 100), "middle"),
        (20, struct.pack("<I", 5050), "not its own"),
    ],
)
def test_zip_whose_directory_lies_is_refused(
    offset: int, value: bytes, says: str, tmp_path: Path
) -> None:
    packed = bytearray(zipped(content(5000)))
    at = directory_at(packed) + offset
    packed[at : at + len(value)] = value
    with pytest.raises(ImageError, match=says):
        read(image(tmp_path / "f", bytes(packed)))


@pytest.mark.parametrize(("offset", "value"), [(2, 0x07), (6, 1), (8, 0)])
def test_zip_that_describes_its_image_in_two_ways_is_refused(
    offset: int, value: int, tmp_path: Path
) -> None:
    packed = bytearray(zipped(content(600)))
    packed[offset] = value
    packed[3] = 8 if offset == 2 else 4  # "PK\x07\x08" begins a spanned zip
    with pytest.raises(ImageError, match="described differently"):
        read(image(tmp_path / "f", bytes(packed)))


def test_zip_whose_data_would_start_before_the_file_is_refused(tmp_path: Path) -> None:
    packed = bytearray(zipped(content(5000)))
    packed[packed.rindex(b"PK\x05\x06") + 17] ^= 2  # where the directory starts, 512 more
    with pytest.raises(ImageError, match="directory"):
        read(image(tmp_path / "f", bytes(packed)))


# --- sizes, hashes, things that are no image ----------------------------------------------------


def test_zip_of_another_size_than_the_catalogues_is_refused_unread(tmp_path: Path) -> None:
    it = image(tmp_path / "f", zipped(b"\0" * (4 << 20)), size=MIB)
    with pytest.raises(ImageError, match=r"4194304 bytes.*1048576"):
        streams.open_image(it)


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz streams", "zstd", "zstd frames"])
def test_bomb_is_stopped_at_the_catalogues_size(name: str, tmp_path: Path) -> None:
    it = image(tmp_path / "f", CONTAINERS[name](bytes(3 * MIB)), size=MIB)
    given = 0
    with streams.open_image(it) as stream:
        buffer = memoryview(bytearray(1 << 16))
        with pytest.raises(ImageError, match="more than 1048576 bytes"):  # noqa: PT012
            while True:
                given += stream.readinto(buffer)
    assert given <= MIB


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz streams", "zstd"])
def test_less_than_the_catalogues_size_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="only 5000 bytes"):
        read(image(tmp_path / "f", CONTAINERS[name](content(5000)), size=5120))


def test_other_hash_names_both(tmp_path: Path) -> None:
    packed = zipped(content(5000))
    with pytest.raises(ImageError) as caught:
        read(image(tmp_path / "f", packed, sha256="ab" * 32))
    assert "ab" * 32 in caught.value.message
    assert hashlib.sha256(packed).hexdigest() in caught.value.message


def test_hash_of_the_file_is_told_after_the_end(tmp_path: Path) -> None:
    packed = zipped(content(5000))
    with streams.open_image(image(tmp_path / "f", packed)) as stream:
        assert stream.sha256 is None
        assert stream.readinto(memoryview(bytearray(6000))) == 5000
        stream.finish()
        assert stream.sha256 == hashlib.sha256(packed).hexdigest()


def test_finish_checks_the_container_when_exactly_the_size_was_read(tmp_path: Path) -> None:
    packed = bytearray(zipped(content(5000)))
    packed[directory_at(packed) + 16] ^= 1  # the CRC
    with streams.open_image(image(tmp_path / "f", bytes(packed), size=5000)) as stream:
        assert stream.readinto(memoryview(bytearray(5000))) == 5000
        with pytest.raises(ImageError, match="CRC-32"):
            stream.finish()


def test_finish_before_the_end_is_our_bug(tmp_path: Path) -> None:
    it = image(tmp_path / "f", content(5000))
    with streams.open_image(it) as stream, pytest.raises(RuntimeError):
        stream.finish()


@pytest.mark.parametrize(
    ("packed", "says"),
    [
        (b"", "empty"),
        (b"x", "not even one sector"),
        (b"<!DOCTYPE html><html><body>log in</body></html>", "HTML"),
        (b"7z\xbc\xaf\x27\x1c" + b"\0" * 600, "7z"),
        (gzip.compress(b"", mtime=0), "not even one sector"),
        (gzip.compress(content(5000), mtime=0) + b"garbage", "something else follows"),
        (bz2.compress(content(5000)) + b"garbage", "something else follows"),
        (lzma.compress(content(5000)) + b"garbage", "something else follows"),
        (zstandard.compress(content(5000)) + b"garbage", "something else follows"),
        (zstandard.compress(content(5000)) + b"\x28", "something else follows"),
    ],
)
def test_what_is_no_image_is_named(packed: bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=says) as caught:
        read(image(tmp_path / "f.img", packed))
    assert "f.img" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("name", ["gzip", "gzip members", "xz", "xz streams", "bzip2"])
def test_zero_bytes_behind_the_data_are_padding(name: str, tmp_path: Path) -> None:
    data = content(5000)
    assert read(image(tmp_path / "f", CONTAINERS[name](data) + b"\0" * 1024)) == data


@pytest.mark.parametrize("make", ["missing", "directory"])
def test_what_cannot_be_opened_is_named(make: str, tmp_path: Path) -> None:
    if make == "directory":
        (tmp_path / "directory").mkdir()
    with pytest.raises(ImageError, match=make):
        streams.open_image(Image("base", "hypriotos", tmp_path / make, None, None))


# --- Prefix -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Image, bytes]:
    data = content(24 * MIB + 12_345)
    path = tmp_path_factory.mktemp("prefix") / "f.zst"
    return image(path, zstandard.compress(data)), data


def test_prefix_reads_what_is_there(large: tuple[Image, bytes]) -> None:
    it, data = large
    rng = random.Random(3)
    with streams.Prefix(it) as source:
        for _ in range(30):
            offset = rng.randrange(len(data))
            size = rng.choice((1, 512, 70_000, 3 * MIB))
            assert source.read_at(offset, size) == data[offset : offset + size]
        assert source.read_at(len(data) - 5, 100) == data[-5:]
        assert source.read_at(len(data) + 5, 100) == b""
        assert source.read_at(0, 0) == b""


def test_prefix_opens_once_while_what_is_asked_is_kept(large: tuple[Image, bytes]) -> None:
    it, data = large
    moved = it.path.with_name("moved")
    with streams.Prefix(it) as source:
        source.read_at(0, 512)
        it.path.rename(moved)  # a second opening would find nothing
        try:
            for offset in (15 * MIB, 0, 8 * MIB, 100, 20 * MIB, 12 * MIB):
                assert source.read_at(offset, 4096) == data[offset : offset + 4096]
        finally:
            moved.rename(it.path)


def test_prefix_keeps_few_chunks(large: tuple[Image, bytes]) -> None:
    it, _ = large
    with streams.Prefix(it) as source:
        source.read_at(0, 24 * MIB)
        assert sum(map(len, source._chunks.values())) <= streams.KEPT_CHUNKS * streams.CHUNK


def test_prefix_of_a_damaged_image_says_so(tmp_path: Path) -> None:
    packed = zipped(content(MIB))
    it = image(tmp_path / "f", packed[: len(packed) // 2])
    with pytest.raises(ImageError, match="cut off"), streams.Prefix(it) as source:
        source.read_at(0, 512)


# --- what to do about a damaged file ------------------------------------------------------------

DAMAGED = [
    content(100),
    b"<!DOCTYPE html><html>",
    gzip.compress(content(9000), mtime=0)[:-20],
    content(9000),
]


@pytest.mark.parametrize("packed", DAMAGED)
@pytest.mark.parametrize("cached", [True, False])
def test_only_a_download_of_ours_is_to_be_removed(
    packed: bytes, cached: bool, tmp_path: Path
) -> None:
    path = tmp_path / "c2" / "base image ü's.img; x"
    path.parent.mkdir()
    damaged = replace(image(path, packed), sha256="0" * 64, cached=cached)
    with pytest.raises(ImageError) as caught:
        read(damaged)
    hint = caught.value.hint
    if not cached:
        assert "from where it came from" in hint
        assert "rm " not in hint
        assert str(path) not in hint
    else:
        assert shlex.split(hint.partition(": rm ")[2]) == [str(path)]
