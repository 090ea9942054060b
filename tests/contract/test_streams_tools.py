"""Images packed by the real tools: read whole, refused when damaged, in little memory."""

from __future__ import annotations

import hashlib
import os
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from flasher import streams
from flasher.errors import ImageError
from flasher.model import Image
from tests.support.tools import need

ROOT = Path(__file__).parents[2]
MEMORY_KB = 50_000  # of which the interpreter with its imports is about 19,000


@dataclass(frozen=True)
class Tool:
    """A command whose standard output is the packed `base.img` of its directory."""

    argv: Sequence[str]
    sized: bool = False
    whole: bool = True  # one stream: wherever it is cut, that can be seen

    @property
    def name(self) -> str:
        return re.sub(r"\W+", "-", " ".join(self.argv)).strip("-")


def shell(line: str, *, sized: bool = False, whole: bool = True) -> Tool:
    return Tool(("sh", "-ec", line), sized, whole)


TOOLS = [
    shell("zip -q - base.img", sized=True),
    shell("zip -q -0 out.zip base.img; cat out.zip", sized=True),
    shell("zip -q -9 out.zip base.img; cat out.zip", sized=True),
    shell("cat base.img | zip -q - - | cat", sized=True),
    shell("zip -q -fz out.zip base.img; cat out.zip", sized=True),
    Tool(("gzip", "-c", "base.img")),
    shell("(head -c 500000 base.img | gzip; tail -c +500001 base.img | gzip -1)", whole=False),
    Tool(("bzip2", "-c", "base.img")),
    Tool(("bzip2", "-1", "-c", "base.img")),
    Tool(("xz", "-c", "-6", "base.img"), sized=True),
    Tool(("xz", "-c", "-9", "base.img"), sized=True),
    Tool(("xz", "-c", "-0", "-T2", "--block-size=200000", "base.img"), sized=True),
    Tool(("xz", "-c", "-0", "--check=none", "base.img"), sized=True),
    shell("(head -c 500000 base.img | xz -0; tail -c +500001 base.img | xz -0)", whole=False),
    Tool(("zstd", "-q", "-c", "base.img")),
    Tool(("zstd", "-q", "-c", "--no-check", "base.img")),
    Tool(("zstd", "-q", "-c", "-19", "-T2", "base.img")),
    Tool(("zstd", "-q", "-c", "--long=27", "base.img")),
    shell("zstd -q -c < base.img"),
    shell("(head -c 500000 base.img | zstd -q; tail -c +500001 base.img | zstd -q)", whole=False),
]


def pack(tool: Tool, directory: Path) -> bytes:
    need("zip", "gzip", "bzip2", "xz", "zstd")
    (directory / "out.zip").unlink(missing_ok=True)
    done = subprocess.run(tool.argv, cwd=directory, capture_output=True, check=True, timeout=120)
    return done.stdout


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.2 MB that is neither noise nor nothing."""
    path = tmp_path_factory.mktemp("base") / "base.img"
    rng = random.Random(2)
    words = [rng.randbytes(rng.randrange(3, 40)) for _ in range(3000)]
    text = b"".join(rng.choice(words) for _ in range(50_000))
    path.write_bytes((text[:600_000] + bytes(300_000) + rng.randbytes(300_000))[:1_200_000])
    return path


def image(path: Path, data: bytes, *, sha256: str | None = None) -> Image:
    path.unlink(missing_ok=True)  # rewriting in place would wait for the disk (ext4)
    path.write_bytes(data)
    return Image("base", "hypriotos", path, sha256, None)


def read(image: Image) -> bytes:
    out, buffer = [], bytearray(1 << 18)
    with streams.open_image(image) as stream:
        while count := stream.readinto(memoryview(buffer)):
            out.append(bytes(buffer[:count]))
        stream.finish()
    return b"".join(out)


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_what_the_tool_packs_is_read(tool: Tool, base: Path, tmp_path: Path) -> None:
    packed = pack(tool, base.parent)
    it = image(tmp_path / "f", packed, sha256=hashlib.sha256(packed).hexdigest())
    assert read(it) == base.read_bytes()
    with streams.open_image(it) as stream:
        assert stream.size == (1_200_000 if tool.sized else None)


@pytest.mark.parametrize("tool", [t for t in TOOLS if t.whole], ids=lambda tool: tool.name)
def test_cut_off_anywhere_is_never_a_short_success(tool: Tool, base: Path, tmp_path: Path) -> None:
    packed = pack(tool, base.parent)
    rng = random.Random(4)
    places = {1, 2, 3, 4, 6, 8, 12, 18, 30, 64, len(packed) // 2}
    places |= {len(packed) - n for n in (1, 2, 3, 4, 5, 8, 11, 12, 16, 21, 22, 23, 64, 100)}
    places |= {rng.randrange(1, len(packed)) for _ in range(25)}
    for place in sorted(places):
        with pytest.raises(ImageError):
            read(image(tmp_path / "f", packed[:place]))


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_flipped_bit_anywhere_is_refused_when_the_hash_is_known(
    tool: Tool, base: Path, tmp_path: Path
) -> None:
    packed = pack(tool, base.parent)
    digest = hashlib.sha256(packed).hexdigest()
    rng = random.Random(6)
    places = {*range(0, 32, 3), *range(len(packed) - 110, len(packed), 5)}
    places |= {rng.randrange(len(packed)) for _ in range(25)}
    for place in sorted(places):
        broken = bytearray(packed)
        broken[place] ^= 1 << rng.randrange(8)
        with pytest.raises(ImageError):
            read(image(tmp_path / "f", bytes(broken), sha256=digest))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("zip -q -P secret out.zip base.img; cat out.zip", "encrypted"),
        ("zip -q -Z bzip2 out.zip base.img; cat out.zip", "method 12"),
        ("echo second > two.img; zip -q out.zip base.img two.img; cat out.zip", r"two\.img"),
        ("mkdir -p d; zip -q out.zip d; cat out.zip", "nothing"),
        ("zstd -q -c --ultra -20 --long=30 base.img", "memory"),
        ("zstd -q --train -o dict $(seq -f %03.0f.part 200); zstd -q -c -D dict base.img", "zstd"),
        ("echo again >> tail; (gzip -c base.img; cat tail)", "something else follows"),
    ],
)
def test_what_cannot_be_read_is_named(line: str, says: str, base: Path, tmp_path: Path) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    data = base.read_bytes()
    (directory / "base.img").write_bytes(data)
    if "--train" in line:
        for number in range(1, 201):
            (directory / f"{number:03}.part").write_bytes(data[number * 2000 :][:2000])
    if "--long=30" in line:  # the window is never made larger than the content
        (directory / "base.img").write_bytes(b"")
        os.truncate(directory / "base.img", 1 << 28)
    packed = pack(shell(line), directory)
    with pytest.raises(ImageError, match=says) as caught:
        read(image(tmp_path / "f", packed))
    assert caught.value.hint


def test_zip_beyond_four_gib_is_read(tmp_path: Path) -> None:
    """zip64 in the directory and in the data descriptor; the image is a hole."""
    need("zip")
    raw = tmp_path / "base.img"
    raw.touch()
    os.truncate(raw, (4 << 30) + 512)
    subprocess.run(["zip", "-q", "-1", "f.zip", "base.img"], cwd=tmp_path, check=True)
    it = Image("base", "hypriotos", tmp_path / "f.zip", None, None)
    with streams.open_image(it) as stream:
        assert stream.size == (4 << 30) + 512
        buffer = memoryview(bytearray(4 << 20))
        total = 0
        while count := stream.readinto(buffer):
            total += count
        stream.finish()
    assert total == (4 << 30) + 512


READER = r"""
import mmap, re, sys
from pathlib import Path
from flasher import streams
from flasher.model import Image
image = Image("base", "hypriotos", Path(sys.argv[1]), None, None)
with mmap.mmap(-1, 4 << 20) as buffer, memoryview(buffer) as view:
    with streams.open_image(image) as stream:
        while stream.readinto(view):
            pass
        stream.finish()
# Not ru_maxrss, which begins with what the parent had when it forked.
print(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.parametrize(
    "line",
    [
        "zip -q - base.img",
        "gzip -c base.img",
        "bzip2 -c base.img",
        "xz -c -0 base.img",
        "zstd -q -c base.img",
        "cat base.img",
    ],
)
@pytest.mark.parametrize("kind", ["zeros", "mixed"])
def test_memory_is_small_however_much_comes_out(
    line: str, kind: str, base: Path, tmp_path: Path
) -> None:
    big = tmp_path / "base.img"
    if kind == "zeros":
        big.touch()
        os.truncate(big, 128 << 20)
    else:
        data = base.read_bytes()
        with big.open("wb") as out:
            for number in range(40):
                out.write(data[number:] + data[:number])
    pack(shell(line + " > f"), tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", READER, str(tmp_path / "f")],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=120,
    )
    assert int(done.stdout) < MEMORY_KB, f"{done.stdout} kB resident"
