"""Safe access to a cluster file that may be wrong anywhere: what has a wrong shape is absent.

Judges nothing; the rules and the builder of ClusterSpec read the file only through this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flasher.model import YamlPath


@dataclass(frozen=True)
class View:
    """A cluster file's data; `bad` are the paths whose values the schema refuses.

    A refused list or mapping does not hide what is in it: that may be wrong by itself.
    """

    data: object
    bad: frozenset[YamlPath]

    def get(self, *path: str | int) -> object:
        """Give the value at a path; None if it, or anything above it, is absent or refused."""
        value = self.data
        for step in path:
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and isinstance(step, int) and step < len(value):
                value = value[step]
            else:
                return None
        return None if path in self.bad and not isinstance(value, dict | list) else value

    def text(self, *path: str | int) -> str | None:
        """Give the string at a path, or None."""
        value = self.get(*path)
        return value if isinstance(value, str) else None

    def flag(self, *path: str | int) -> bool | None:
        """Give the boolean at a path, or None."""
        value = self.get(*path)
        return value if isinstance(value, bool) else None

    def mapping(self, *path: str | int) -> Mapping[str, object]:
        """Give the mapping at a path, or an empty one."""
        value = self.get(*path)
        return value if isinstance(value, dict) else {}

    def texts(self, *path: str | int) -> Mapping[int, str]:
        """Give the strings of the list at a path by their index."""
        value = self.get(*path)
        items = value if isinstance(value, list) else []
        return {
            index: item
            for index, item in enumerate(items)
            if isinstance(item, str) and (*path, index) not in self.bad
        }

    def written(self, *path: str | int) -> bool:
        """Tell whether anything at all stands at a path, right or wrong."""
        *above, last = path
        value: object = self.data
        for step in above:
            if not isinstance(value, dict):
                return False
            value = value.get(step)
        return isinstance(value, dict) and last in value

    @property
    def nodes(self) -> tuple[str, ...]:
        """Give the names of the nodes in the file's order, of wrong ones too."""
        return tuple(self.mapping("nodes"))
