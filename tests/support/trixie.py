"""The names that tests/e2e/base.py still takes from here: see debian.py."""

from tests.support.debian import Mirror, debian_mirror
from tests.support.debian import codename as _codename

__all__ = ["Mirror", "_codename", "debian_mirror"]
