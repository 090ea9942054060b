"""Secrets stay hidden, places print as editors read them."""

from __future__ import annotations

import json
import traceback

from flasher.model import Location, Problem, Run, Secret, SeedFile


def test_secret_never_shows_itself() -> None:
    secret = Secret("hunter2")
    assert "hunter2" not in f"{secret} {secret!r} {[secret]} {{'a': secret}}"
    assert "hunter2" not in repr(SeedFile(b"hunter2", secret=True))
    assert "hunter2" not in repr(Run(0, b"hunter2"))
    try:
        json.dumps({"x": secret})
    except TypeError:
        assert "hunter2" not in traceback.format_exc()


def test_secrets_compare_by_value() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert len({Secret("a"), Secret("a")}) == 1


def test_problem_prints_its_place() -> None:
    problem = Problem(Location("cluster.yaml", 12, 5), "nodes.pi1.role", "is wrong")
    assert str(problem) == "cluster.yaml:12:5: nodes.pi1.role: is wrong"
