"""Our FAT edits, judged by fsck.vfat and read back by mtools."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flasher import fat
from flasher.errors import ImageError
from tests.contract import fatcorpus
from tests.contract.fatcorpus import SEED, FileSource, Grid, Shape
from tests.support.tools import need

WHEN = 1_763_800_000
SECTORS = (1, 2, 4, 8, 16, 32, 64)
GRIDS = [Grid(bits, s) for bits in (12, 16, 32) for s in SECTORS]
NEW_FOLDERS = ("piflash", "piflash/identity", "piflash/stacks", "piflash/stacks/traefik")


@pytest.fixture(autouse=True)
def _tools() -> None:
    need("mkfs.vfat", "fsck.vfat", "mcopy", "mdir", "mdel", "mattrib", "cp")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder for sparse volumes, in memory where the machine has it."""
    shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix="piflash-fat-", dir=shm))
    yield path
    shutil.rmtree(path)


def missing_clusters(grid: Grid) -> int:
    """What the seed takes more than ORIGINAL has of the same files, folders included."""

    def clusters(data: bytes) -> int:
        return -(-len(data) // grid.cluster)

    return len(NEW_FOLDERS) + sum(
        clusters(data) - clusters(fatcorpus.ORIGINAL.get(name, b"")) for name, data in SEED.items()
    )


def patched(source: Path, target: Path, edits: dict[str, bytes]) -> Path:
    with FileSource(source) as volume:
        runs = fat.patch(volume, edits, when=WHEN, size=source.stat().st_size)
    assert list(runs) == sorted(runs, key=lambda run: run.offset)
    assert all(one.end < other.offset for one, other in pairwise(runs))
    return fatcorpus.apply(target, runs, like=source)


@pytest.mark.parametrize("shape", Shape, ids=lambda shape: shape.value)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_seeds_any_volume_and_keeps_every_other_file(grid: Grid, shape: Shape, place: Path) -> None:
    slack = 2 if grid.cluster == 512 else 0  # the root or a folder may need one more cluster
    leave = missing_clusters(grid) + slack
    files = fatcorpus.corpus_volume(place / "before", grid, shape, leave=leave)
    after = patched(place / "before", place / "after", dict(SEED))
    used = fatcorpus.assert_clean(after)
    tree = fatcorpus.tree(after, place / "out")
    assert {name: data for name, data in tree.items() if data is not None} == {**files, **SEED}
    names = fatcorpus.listed(after)
    assert sorted(name.rstrip("/") for name in names) == sorted(tree)
    with FileSource(after) as source:
        volume = fat.FatVolume(source)
        volume.check()
        assert (volume.kind, volume.cluster_size) == (f"FAT{grid.bits}", grid.cluster)
        assert volume.label == "HypriotOS"
        assert volume.free_bytes == fatcorpus.free_bytes(after)
        assert {entry.path for entry in volume.walk()} == set(tree)
    assert used > 0


@pytest.mark.parametrize("grid", [Grid(12, 1), Grid(16, 4), Grid(32, 1)], ids=str)
def test_refuses_volume_that_lacks_one_cluster(grid: Grid, place: Path) -> None:
    leave = missing_clusters(grid) - 1
    fatcorpus.corpus_volume(place / "v", grid, Shape.NEARLY_FULL, leave=leave)
    with FileSource(place / "v") as source, pytest.raises(ImageError) as caught:
        fat.patch(source, SEED, when=WHEN)
    assert f"{(leave + 1) * grid.cluster} bytes more" in caught.value.message
    assert f"{leave * grid.cluster} are free" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("sector", [1024, 2048, 4096])
def test_patches_larger_sectors(sector: int, place: Path) -> None:
    files = fatcorpus.corpus_volume(place / "v", Grid(16, 1, sector), Shape.LONG_NAMES, leave=0)
    after = patched(place / "v", place / "after", dict(SEED))
    fatcorpus.assert_clean(after)
    tree = fatcorpus.tree(after, place / "out")
    assert {name: data for name, data in tree.items() if data is not None} == {**files, **SEED}


def test_reads_no_file_content_and_goes_mostly_forward(place: Path) -> None:
    grid = Grid(16, 4)
    files = fatcorpus.corpus_volume(place / "v", grid, Shape.DEEP_FOLDERS, leave=0)
    with FileSource(place / "v") as source:
        fat.patch(source, SEED, when=WHEN)
    data = fatcorpus.first_byte(place / "v")
    in_data = [offset for offset, _ in source.reads if offset >= data]
    folders = {name.rpartition("/")[0] for name in files if "/" in name}
    assert len(in_data) == len(folders)
    offsets = [offset for offset, _ in source.reads]
    assert offsets == sorted(offsets)


def test_keeps_short_name_and_attributes_of_a_replaced_file(place: Path) -> None:
    volume = fatcorpus.make(place / "v", Grid(16, 4))
    fatcorpus.put(volume, {"A long name.txt": b"1", "config.txt": b"2"}, place / "in")
    fatcorpus.tool("mattrib", "+r", "+h", "+s", "-a", "-i", volume, "::A long name.txt")
    before = fatcorpus.tool("mattrib", "-/", "-i", volume, "::")
    after = patched(volume, place / "after", {"a LONG name.TXT": b"x" * 9000, "CONFIG.TXT": b"y"})
    fatcorpus.assert_clean(after)
    assert fatcorpus.tool("mattrib", "-/", "-i", after, "::") == before
    shown = fatcorpus.tool("mdir", "-a", "-i", after, "::")
    assert "ALONGN~1 TXT      9000" in shown
    assert fatcorpus.listed(after) == ["A long name.txt", "config.txt"]


def test_mtools_shows_the_date_of_the_flash(place: Path) -> None:
    volume = fatcorpus.make(place / "v", Grid(12, 1))
    after = patched(volume, place / "after", {"a": b"", "b/c": b""})
    shown = fatcorpus.tool("mdir", "-i", after, "::")
    assert shown.count("2025-11-22   8:26") == 2


def test_fixed_root_takes_what_fits_and_refuses_one_more(place: Path) -> None:
    volume = fatcorpus.make(place / "v", Grid(16, 4, root_entries=64))
    free = 63  # the label has one
    fits = {f"FILE{i}": b"" for i in range(free)}
    after = patched(volume, place / "after", fits)
    fatcorpus.assert_clean(after)
    assert sorted(fatcorpus.listed(after)) == sorted(fits)
    with FileSource(volume) as source, pytest.raises(ImageError, match="64 entries"):
        fat.patch(source, {**fits, "one-more": b""}, when=WHEN)


def test_folder_grows_over_many_clusters(place: Path) -> None:
    for grid in (Grid(12, 1), Grid(32, 1)):
        volume = fatcorpus.make(place / "v", grid)
        names = {f"many/an entry with a rather long name {i:03}": b"%d" % i for i in range(150)}
        after = patched(volume, place / "after", names)
        fatcorpus.assert_clean(after)
        tree = fatcorpus.tree(after, place / "out")
        assert {name: data for name, data in tree.items() if data is not None} == names


def test_same_input_gives_the_same_runs(place: Path) -> None:
    fatcorpus.corpus_volume(place / "v", Grid(32, 1), Shape.FRAGMENTED, leave=0)
    with FileSource(place / "v") as source:
        one = fat.patch(source, SEED, when=WHEN)
        other = fat.patch(source, dict(reversed(SEED.items())), when=WHEN)
    assert one == other


# --- random edits ------------------------------------------------------------------------------

RANDOM_GRIDS = [Grid(12, 1), Grid(12, 4), Grid(12, 16), Grid(16, 1), Grid(16, 8), Grid(32, 1)]
TINY_GRIDS = [Grid(12, 1, clusters=60, root_entries=32), Grid(12, 8, clusters=9)]
EXAMPLES = 800

LETTERS = "abcXYZ019 ._-~+=,;[](){}'!#$%&@^`äßéÆñЖ日😀"
WORDS = st.sampled_from(
    ["config.txt", "CONFIG.TXT", "Config.Txt", "cmdline.txt", "user-data", "USER-D~1", "piflash"]
) | st.sampled_from(
    ["longfilename.txt", "longfilename2.txt", "LONGFI~1.TXT", "longfi~2.txt", ".hidden", "a.b.c"]
    + [f"same prefix {number}.json" for number in range(12)]
)
TEXTS = st.text(LETTERS, min_size=1, max_size=30)
LONGEST = st.integers(1, 9).map(lambda n: "x" * (13 * n)) | st.just("y" * 250)
NAMES = st.one_of(WORDS, TEXTS, LONGEST).filter(lambda name: name[-1] not in " .")
FOLDER_NAMES = st.sampled_from(["", "", "piflash/", "piflash/stacks/", "Ünï folder/", "a/b/c/d/"])
PATHS = st.tuples(FOLDER_NAMES, NAMES).map("".join)
SIZES = st.one_of(st.sampled_from([0, 1, 511, 512, 513, 2048, 8192, 8193]), st.integers(0, 40_000))
OPERATIONS = st.one_of(
    st.tuples(st.just("write"), PATHS, SIZES),
    st.tuples(st.just("write"), PATHS, SIZES),
    st.tuples(st.just("rewrite"), st.integers(0, 50), SIZES),
    st.tuples(st.just("remove"), st.integers(0, 50), st.just(0)),
    st.tuples(st.just("mkdir"), PATHS, st.just(0)),
    st.tuples(st.just("reopen"), st.just(0), st.just(0)),
)


def fold(path: str) -> str:
    """Upper case as mtools and Windows compare: one character for one."""
    return "".join(c.upper() if len(c.upper()) == 1 else c for c in path)


def as_mtools(path: str) -> str:
    """mtools 4.0.32 shows each half of a surrogate pair as an underscore."""
    return "".join("__" if ord(char) > 0xFFFF else char for char in path)


class Model:
    """What the volume must hold: folded path -> (path as first spelled, content or None)."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[str, bytes | None]] = {}

    def spelled(self, path: str) -> str:
        """Give the path with each folder spelled as it was made."""
        parent, slash, name = path.rpartition("/")
        return (self.entries[fold(parent)][0] + slash if parent else "") + name

    def folders(self, path: str) -> list[str]:
        parts = path.split("/")
        return ["/".join(parts[:depth]) for depth in range(1, len(parts))]

    def blocked(self, path: str) -> bool:
        """Whether a folder on the way is a file."""
        return any(
            self.entries.get(fold(folder), ("", None))[1] is not None
            for folder in self.folders(path)
        )

    def set(self, path: str, content: bytes | None) -> None:
        for folder in self.folders(path):
            self.entries.setdefault(fold(folder), (self.spelled(folder), None))
        key = fold(path)
        name = self.entries[key][0] if key in self.entries else self.spelled(path)
        self.entries[key] = (name, content)

    def pick(self, index: int, kind: type) -> str | None:
        """Give some file's, or any leaf's, path."""
        leaves = [
            path
            for key, (path, content) in sorted(self.entries.items())
            if isinstance(content, kind) and not any(k.startswith(key + "/") for k in self.entries)
        ]
        return leaves[index % len(leaves)] if leaves else None


@pytest.fixture(scope="module")
def blanks() -> Iterator[dict[Grid, Path]]:
    need("mkfs.vfat", "mcopy")
    shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="piflash-fat-", dir=shm) as folder:
        made = {}
        for grid in RANDOM_GRIDS + TINY_GRIDS:
            path = fatcorpus.make(Path(folder) / f"{grid}.img", grid)
            made[grid] = path
        yield made


SEEN: dict[str, int] = {}
TOO_FULL = re.compile("too full|in its folder of")


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    grid=st.sampled_from(RANDOM_GRIDS) | st.sampled_from(TINY_GRIDS),
    operations=st.lists(OPERATIONS, min_size=6, max_size=40),
)
def test_random_edits_are_clean_and_read_back(
    blanks: dict[Grid, Path],
    grid: Grid,
    operations: list[tuple[str, str | int, int]],
) -> None:
    blank = blanks[grid]
    work = blank.with_suffix(".work")
    fatcorpus.apply(work, (), like=blank)
    model = Model()
    stretch: list[tuple[str, str | int, int]] = []
    for operation in [*operations, ("reopen", 0, 0)]:
        stretch.append(operation)
        if operation[0] == "reopen":
            with FileSource(work) as source:
                volume = fat.FatVolume(source, when=WHEN, size=work.stat().st_size)
                before = dict(model.entries)
                try:
                    play(volume, model, stretch)
                    fatcorpus.apply(work, volume.runs())
                except ImageError as error:
                    if not TOO_FULL.search(error.message):
                        raise
                    model.entries = before
                    SEEN["too full"] = SEEN.get("too full", 0) + 1
            stretch = []
    used = fatcorpus.assert_clean(work)
    expected = {as_mtools(path): content for path, content in model.entries.values()}
    assert fatcorpus.tree(work, blank.with_suffix(".out")) == expected
    with FileSource(work) as source:
        volume = fat.FatVolume(source)
        volume.check()
        assert volume.free_bytes // grid.cluster == fatcorpus.clusters(blank) - used
        assert {entry.path for entry in volume.walk()} == {p for p, _ in model.entries.values()}
    SEEN["examples"] = SEEN.get("examples", 0) + 1


def play(volume: fat.FatVolume, model: Model, operations: list[tuple[str, str | int, int]]) -> None:
    """Do the same to the volume and to the model; what FAT must refuse, both refuse."""
    for number, (kind, what, size) in enumerate(operations):
        content = bytes([number % 255 + 1]) * size
        if kind == "write" and isinstance(what, str):
            play_new(volume, model, what, content)
        elif kind == "mkdir" and isinstance(what, str):
            play_new(volume, model, what, None)
        elif kind == "rewrite" and isinstance(what, int):
            path = model.pick(what, bytes)
            if path is not None:
                volume.write(
                    path.swapcase() if fold(path.swapcase()) == fold(path) else path, content
                )
                model.set(path, content)
                assert volume.read(path) == content
        elif kind == "remove" and isinstance(what, int):
            path = model.pick(what, object)
            if path is not None:
                volume.remove(path)
                del model.entries[fold(path)]
                assert not volume.exists(path)


def play_new(volume: fat.FatVolume, model: Model, path: str, content: bytes | None) -> None:
    entry = model.entries.get(fold(path))
    if entry is None and volume.exists(path):
        return  # it is the short name of another file
    if model.blocked(path) or (entry and (entry[1] is None) != (content is None)):
        # Ask only what cannot have made a folder before it was refused.
        if entry and content is not None:
            with pytest.raises(ImageError):
                volume.write(path, content)
        return
    if content is None:
        volume.mkdir(path)
        model.set(path, None)
    else:
        volume.write(path, content)
        model.set(path, content)
        assert volume.read(path) == content


def test_the_random_edits_were_as_many_as_promised() -> None:
    if "examples" not in SEEN:
        pytest.skip("the random edits did not run")
    assert SEEN["examples"] >= EXAMPLES
    assert SEEN["too full"] >= EXAMPLES / 50
