"""The command as a process: its questions, pipes, closed streams and signals."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import baseimage, fileserver
from tests.support.cluster import write_cluster
from tests.support.tools import need

ENTRY = [sys.executable, "-m", "flasher"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with a cluster file and a small base image."""
    need("mkfs.vfat", "mcopy", "mke2fs")
    image = baseimage.build(tmp_path / "base.img", geometry=baseimage.Geometry(root_mib=8))
    write_cluster(tmp_path, image=str(image))
    return tmp_path


def environment(directory: Path) -> dict[str, str]:
    schema = {"PIFLASH_CACHE": str(directory / "cache"), "no_proxy": "*"}
    # With it Python keeps nothing back that it could fail to write at its end.
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    return {**inherited, **schema}


def answer(directory: Path, typed: str, *argv: str) -> tuple[int, str, str]:
    """Run with a terminal on standard input; gives code, stdout, stderr."""
    ours, theirs = pty.openpty()
    try:
        running = subprocess.Popen(
            [*ENTRY, *argv],
            cwd=directory,
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(directory),
        )
        os.write(ours, typed.encode())
        out, err = running.communicate(timeout=60)
        return running.returncode, out, err
    finally:
        os.close(ours)
        os.close(theirs)


def test_typing_the_nodes_name_writes_and_stdout_is_the_json_alone(project: Path) -> None:
    code, out, err = answer(project, "pi1\n", "--node", "pi1", "pi1.img", "--json")
    assert code == 0, err
    assert json.loads(out)[0]["ok"] is True
    assert "Type the node's name" in err


@pytest.mark.parametrize("typed", ["pi2\n", "yes\n", "\n", "\x04"])
def test_typing_anything_else_writes_nothing(typed: str, project: Path) -> None:
    code, _, err = answer(project, typed, "--node", "pi1", "pi1.img")
    assert code == 12, err
    assert not list(project.glob("pi1.img*"))


def test_every_card_is_asked_for(project: Path) -> None:
    pairs = ["--node", "pi1", "a.img", "--node", "pi2", "b.img"]
    assert answer(project, "pi1\npi1\n", *pairs)[0] == 12
    assert not list(project.glob("?.img"))
    assert answer(project, "pi1\npi2\n", *pairs)[0] == 0
    assert len(list(project.glob("?.img"))) == 2


def test_reader_of_stdout_that_left_changes_nothing(project: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*ENTRY, "--node", "pi1", "pi1.img", "--yes"],
        cwd=project,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(project),
        timeout=60,
    )
    os.close(writer)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (project / "pi1.img").exists()


def test_reader_of_stderr_that_left_does_not_stop_a_card(project: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*ENTRY, "--node", "pi1", "pi1.img", "--yes"],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=writer,
        text=True,
        env=environment(project),
        timeout=60,
    )
    os.close(writer)
    assert done.returncode == 0
    assert "written and verified" in done.stdout


@pytest.mark.parametrize(
    ("shell", "code"),
    [
        ("2>/dev/full --node pi1 pi1.img --yes", 0),
        ("<&- --node pi1 pi1.img", 12),
        ("2>&- --node pi1 pi1.img --yes", 0),
        (">&- --node pi1 pi1.img --yes", 0),
        (">/dev/full --node pi1 pi1.img --yes", 0),
    ],
)
def test_closed_streams_are_no_bug(shell: str, code: int, project: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f"exec {sys.executable} -m flasher {shell}"],
        cwd=project,
        capture_output=True,
        text=True,
        env=environment(project),
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_ascii_terminal_shows_any_name(project: Path) -> None:
    odd = project / "kärte ü.yaml"
    odd.write_text("name: [\n", encoding="utf-8")
    done = subprocess.run(
        [*ENTRY, "check", "--cluster", odd],
        cwd=project,
        capture_output=True,
        text=True,
        env={**environment(project), "PYTHONIOENCODING": "ascii"},
        timeout=60,
    )
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_stops_within_two_seconds_and_says_what_the_card_is(
    number: signal.Signals, project: Path
) -> None:
    image = project / "base.img"
    with image.open("r+b") as out:
        out.seek(0, os.SEEK_END)
        for _ in range(700):
            out.write(os.urandom(1 << 20))
    with subprocess.Popen(
        [*ENTRY, "--node", "pi1", "pi1.img", "--yes"],
        cwd=project,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=environment(project),
    ) as running:
        partial = project / "pi1.img.piflash-partial"
        deadline = time.monotonic() + 30
        while not (partial.exists() and partial.stat().st_size > 4 << 20):
            assert time.monotonic() < deadline
            assert running.poll() is None, "it was done before the signal"
            time.sleep(0.005)
        begin = time.monotonic()
        running.send_signal(number)
        _, err = running.communicate(timeout=20)
        took = time.monotonic() - begin
    assert running.returncode == 130, err
    assert took < 2
    assert "pi1: " in err
    assert "no file was made" in err
    assert not list(project.glob("pi1.img*"))


def test_new_cluster_is_said_once(project: Path) -> None:
    first, second = (
        subprocess.run(
            [*ENTRY, "--node", node, f"{node}.img", "--yes"],
            cwd=project,
            capture_output=True,
            text=True,
            env=environment(project),
            timeout=60,
        )
        for node in ("pi1", "pi2")
    )
    assert "NEW cluster" in first.stderr
    assert "backup" in first.stderr
    assert "NEW cluster" not in second.stderr


def test_damaged_download_is_not_taken_for_the_image_from_then_on(project: Path) -> None:
    archive = baseimage.zip_image(project / "base.img", project / "base.img.zip")
    whole = archive.read_bytes()
    with fileserver.serve({"base.img.zip": whole[:-3000]}) as server:
        write_cluster(project, image=server.url("base.img.zip"))
        argv = [*ENTRY, "--node", "pi1", "pi1.img", "--yes"]
        broken = subprocess.run(
            argv, cwd=project, capture_output=True, text=True, env=environment(project), timeout=60
        )
        assert broken.returncode == 5, broken.stderr
        server.put("base.img.zip", whole)
        again = subprocess.run(
            [*ENTRY, "fetch", "--repin"],
            cwd=project,
            capture_output=True,
            text=True,
            env=environment(project),
            timeout=60,
        )
        assert again.returncode == 0, again.stderr


def test_wrong_target_is_told_before_anything_is_downloaded(project: Path) -> None:
    with fileserver.serve({}) as server:
        write_cluster(project, image=server.url("base.img.zip"))
        done = subprocess.run(
            [*ENTRY, "--node", "pi1", "/dev/piflash-no-such-device", "--yes"],
            cwd=project,
            capture_output=True,
            text=True,
            env=environment(project),
            timeout=60,
        )
        assert done.returncode == 4, done.stderr
        assert not server.requests


def test_remedy_repeats_the_options_it_needs(project: Path) -> None:
    (project / "a b").mkdir()
    file = project / "a b" / "cluster.yaml"
    file.write_text("name: home\n")
    done = subprocess.run(
        [*ENTRY, "check", "--cluster", "a b/cluster.yaml"],
        cwd=project,
        capture_output=True,
        text=True,
        env=environment(project),
        timeout=60,
    )
    assert done.returncode == 3
    assert done.stderr.endswith("then: piflash check --cluster 'a b/cluster.yaml'\n")
    assert "a b/cluster.yaml:1:1" in done.stderr
