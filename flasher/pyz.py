"""The Pi's package as one zipapp, the same bytes for the same files. Pure; reads no file."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

_SHEBANG = b"#!/usr/bin/env python3\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold (APPNOTE 4.4.6)
_FILE_0644 = 0o100644 << 16
_UNIX = 3


def pack(files: Mapping[str, bytes], *, package: str = "firstboot") -> bytes:
    """Give a runnable zipapp of a package's files, whose paths are relative to the package.

    The package needs a `__main__.py` with `main() -> int`, which is what running the zipapp calls.
    Stored, not deflated: other versions of zlib give other bytes. ValueError without `__main__.py`.
    """
    if "__main__.py" not in files:
        raise ValueError(f"package {package} has no __main__.py")
    start = f"import sys\n\nfrom {package}.__main__ import main\n\nsys.exit(main())\n"
    members = {f"{package}/{path}": content for path, content in files.items()}
    members["__main__.py"] = start.encode()
    buffer = io.BytesIO()
    buffer.write(_SHEBANG)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as archive:
        for path, content in sorted(members.items()):
            archive.writestr(_entry(path), content)
    return buffer.getvalue()


def _entry(path: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(path, date_time=_EPOCH)
    entry.create_system = _UNIX
    entry.external_attr = _FILE_0644
    return entry
