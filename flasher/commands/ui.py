"""Talking to the person at the terminal: result on stdout, talk on stderr, questions on both."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from flasher.errors import ClusterFileError, NotConfirmedError, PiflashError
from flasher.model import Problem


@dataclass(frozen=True)
class Ui:
    """`as_json`: stdout carries one JSON document and nothing else.

    `options`: those of the command line that a remedy has to repeat, such as --cluster.
    """

    as_json: bool = False
    options: Mapping[str, str] = field(default_factory=dict)

    def result(self, text: str, data: object) -> None:
        """Give the command's result, once."""
        line = json.dumps(data, indent=2, sort_keys=True) if self.as_json else text
        if not line:
            return
        try:
            print(line, flush=True)
        except OSError as error:
            # The job is done, and its exit code must say so, whoever reads the pipe.
            _silence_stdout()
            if not isinstance(error, BrokenPipeError):
                self.talk(f"piflash: warning: standard output: {error.strerror}")

    def talk(self, line: str) -> None:
        """Tell what is going on."""
        with suppress(OSError):
            print(line, file=sys.stderr, flush=True)

    def warn(self, lines: Iterable[str]) -> None:
        """Tell what is not as it should be, and does not stop the job."""
        for line in lines:
            self.talk(f"piflash: warning: {line}")

    def fail(self, error: PiflashError) -> None:
        """Tell why there is no result; with --json, stdout tells it too."""
        self.talk_error(error)
        if self.as_json:
            problems = error.problems if isinstance(error, ClusterFileError) else ()
            about = {"error": error.message, "hint": error.hint, "exit_code": error.exit_code}
            self.result("", {**about, "problems": [_problem(problem) for problem in problems]})

    def talk_error(self, error: PiflashError, *, about: str = "") -> None:
        """Tell one error and its remedy; `about` names what it befell."""
        hint = with_options(error.hint, options=self.options)
        self.talk(f"piflash: error: {about}{error.message}" + (f"\n  {hint}" if hint else ""))

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
                answer = input()
            except EOFError:
                answer = ""
            if answer.strip() != name:
                raise NotConfirmedError(
                    f"nothing was written: {answer.strip()!r} is not {name!r}",
                    hint="run the command again and type the node's name to go on",
                )


def _silence_stdout() -> None:
    """Have Python not complain about the same stream again when it exits."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def with_options(hint: str, *, options: Mapping[str, str]) -> str:
    """Have the piflash commands of a hint act on the same cluster file and image."""

    def repeat(match: re.Match[str]) -> str:
        command = match[1]
        names = ("--cluster",) if command in ("check", "render") else ("--cluster", "--image")
        words = [f"{name} {shlex.quote(options[name])}" for name in names if name in options]
        order = ["piflash", *words, command] if command == "--node" else [match[0], *words]
        return " ".join(order)

    return re.sub(r"\bpiflash (check|fetch|render|flash|--node)\b", repeat, hint)


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
