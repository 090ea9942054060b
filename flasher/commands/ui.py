"""Talking to the person at the terminal: result on stdout, talk on stderr, questions on both."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from flasher.errors import ClusterFileError, NotConfirmedError, PiflashError
from flasher.model import Problem


@dataclass(frozen=True)
class Ui:
    """`as_json`: stdout carries one JSON document and nothing else."""

    as_json: bool = False

    def result(self, text: str, data: object) -> None:
        """Give the command's result, once."""
        if self.as_json:
            print(json.dumps(data, indent=2, sort_keys=True))
        elif text:
            print(text, flush=True)

    def talk(self, line: str) -> None:
        """Tell what is going on."""
        print(line, file=sys.stderr, flush=True)

    def warn(self, lines: Iterable[str]) -> None:
        """Tell what is not as it should be, and does not stop the job."""
        for line in lines:
            self.talk(f"piflash: warning: {line}")

    def fail(self, error: PiflashError) -> None:
        """Tell why there is no result; with --json, stdout tells it too."""
        self.talk(f"piflash: error: {error}")
        if self.as_json:
            problems = error.problems if isinstance(error, ClusterFileError) else ()
            self.result("", {**_error(error), "problems": [_problem(p) for p in problems]})

    def confirm(self, names: Iterable[str]) -> None:
        """Have each node's name typed. NotConfirmedError without a terminal or for another text."""
        if not sys.stdin.isatty():
            raise NotConfirmedError(
                "nothing was written: there is no terminal to ask on",
                hint="check the plan with --dry-run, then run the same command with --yes",
            )
        for name in names:
            self.talk(f"Type the node's name to erase the target and write {name}:")
            try:
                answer = input("> ")
            except EOFError:
                answer = ""
            if answer.strip() != name:
                raise NotConfirmedError(
                    f"nothing was written: {answer.strip()!r} is not {name!r}",
                    hint="run the command again and type the node's name to go on",
                )


def _error(error: PiflashError) -> dict[str, object]:
    return {"error": error.message, "hint": error.hint, "exit_code": error.exit_code}


def _problem(problem: object) -> dict[str, object]:
    if not isinstance(problem, Problem):
        return {"message": str(problem)}
    place = problem.location
    return {
        "file": place.file,
        "line": place.line,
        "column": place.column,
        "path": problem.path,
        "message": problem.message,
    }
