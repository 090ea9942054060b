from __future__ import annotations

import io
import zipfile

import pytest

from flasher import pyz

FILES = {"__init__.py": b"", "__main__.py": b"def main(): return 0\n", "b/c.py": b"x = 1\n"}


def names(packed: bytes) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(packed)).namelist()


def test_the_same_files_in_any_order_give_the_same_bytes() -> None:
    backwards = dict(reversed(FILES.items()))
    assert pyz.pack(FILES) == pyz.pack(backwards)


def test_other_content_gives_other_bytes() -> None:
    assert pyz.pack(FILES) != pyz.pack({**FILES, "b/c.py": b"x = 2\n"})


def test_it_can_be_run_as_a_program_and_imported_as_a_package() -> None:
    packed = pyz.pack(FILES)
    assert packed.startswith(b"#!/usr/bin/env python3\nPK")
    assert names(packed) == [
        "__main__.py",
        "firstboot/__init__.py",
        "firstboot/__main__.py",
        "firstboot/b/c.py",
    ]
    archive = zipfile.ZipFile(io.BytesIO(packed))
    assert archive.testzip() is None
    assert archive.read("firstboot/b/c.py") == b"x = 1\n"


def test_nothing_of_this_machine_or_moment_is_in_it() -> None:
    for entry in zipfile.ZipFile(io.BytesIO(pyz.pack(FILES))).infolist():
        assert entry.date_time == (1980, 1, 1, 0, 0, 0)
        assert entry.create_system == 3
        assert entry.external_attr >> 16 == 0o100644
        assert entry.compress_type == zipfile.ZIP_STORED


def test_the_package_has_the_name_that_was_asked_for() -> None:
    assert "other/__main__.py" in names(pyz.pack(FILES, package="other"))


def test_refuses_a_package_that_cannot_be_run() -> None:
    with pytest.raises(ValueError, match=r"no __main__\.py"):
        pyz.pack({"__init__.py": b""})
