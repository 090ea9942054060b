"""`python -m tests.e2e.record DIRECTORY`: the recorded guest of tests/unit/test_e2e_checks.py.

DIRECTORY: where a run left its scenes' JSON. Of the long lists only so much is kept as makes sense.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

CASE = Path(__file__).parent.parent / "unit" / "cases" / "e2e-guest.json"
KEEP = 60  # files


def main(directory: Path) -> None:
    """Write the first sight of the scene `static` as the case."""
    sight = json.loads((directory / "static.json").read_text())["sights"][0]
    found = sight["found"]
    for key in ("files", "boot"):
        found[key] = dict(sorted(found[key].items())[:KEEP])
    found["units"]["piflash_told"] = found["units"]["piflash_told"][:3]
    CASE.write_text(json.dumps(sight, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
