"""The PiflashError tree: what went wrong, the command that mends it, and the exit code.

The subclass says who must act; README's table of exit codes is checked against this tree by a test.
"""

from __future__ import annotations

from typing import ClassVar


class PiflashError(Exception):
    """An expected failure. `message` names the object and the value, `hint` the remedy to type."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class UsageError(PiflashError):
    """The command line is wrong."""

    exit_code = 2


class ClusterFileError(PiflashError):
    """The cluster file, or a file that it names, is wrong. The message has a line per problem.

    `problems` are those same lines as flasher.model.Problem, for tests and for --json.
    """

    exit_code = 3

    def __init__(self, message: str, *, hint: str = "", problems: tuple[object, ...] = ()) -> None:
        super().__init__(message, hint=hint)
        self.problems = problems


class DeviceRefusedError(PiflashError):
    """The target is not one that may be overwritten."""

    exit_code = 4


class ImageError(PiflashError):
    """The base image is damaged, not what was promised, or not one that can carry a seed."""

    exit_code = 5


class WriteError(PiflashError):
    """Writing the card failed; the card does not boot."""

    exit_code = 6


class VerifyError(PiflashError):
    """What was read back differs from what was written; the card does not boot."""

    exit_code = 7


class ToolMissingError(PiflashError):
    """A program or file that this job needs is not installed."""

    exit_code = 8


class WorkspaceError(PiflashError):
    """The cluster's `.piflash/` directory is locked, damaged or not ours."""

    exit_code = 9


class DownloadError(PiflashError):
    """A server did not give what was asked for."""

    exit_code = 10


class SeedError(PiflashError):
    """What was rendered for a node is not valid for its base image."""

    exit_code = 11


class NotConfirmedError(PiflashError):
    """Nobody confirmed the plan; nothing was written."""

    exit_code = 12


class InterruptedJobError(PiflashError):
    """The user stopped the job; the message says what the card is now."""

    exit_code = 130
