"""firstboot.engine against engines that are slow, broken or absent: programs on a unix socket."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from firstboot import swarmview
from firstboot.engine import MAX_BYTES, MAX_HEAD, Docker, EngineError
from firstboot.model import Bind, Grant, Token
from tests.support.tools import need_root

SECRET = "SWMTKN-1-digest-secret"
SOON = 0.4  # seconds that an action has
LATE = 3.0  # seconds after which it hangs, on a machine that has other things to do
Serve = Callable[[socket.socket, str], None]


@contextmanager
def pretending(path: Path, serve: Serve) -> Iterator[list[str]]:
    """A program that answers on a unix socket; gives the request lines that it got."""
    asked: list[str] = []
    callers: list[threading.Thread] = []

    def meet(caller: socket.socket) -> None:
        with caller, caller.makefile("rb") as request:
            asked.append(request.readline().decode().rpartition(" ")[0])
            try:
                serve(caller, asked[-1])
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                caller, _ = server.accept()
            except OSError:
                return
            callers.append(threading.Thread(target=meet, args=(caller,)))
            callers[-1].start()

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield asked
        finally:
            server.shutdown(socket.SHUT_RDWR)
            for one in (thread, *callers):
                one.join(30)


def http(status: int, body: object) -> bytes:
    text = json.dumps(body).encode()
    return b"HTTP/1.0 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(text), text)


def always(said: bytes) -> Serve:
    """Says which versions it speaks, and that to everything else."""

    def serve(caller: socket.socket, request: str) -> None:
        caller.sendall(http(200, {}) if request == "GET /version" else said)

    return serve


def dripping(first: bytes, drop: bytes) -> Serve:
    def serve(caller: socket.socket, request: str) -> None:
        caller.sendall(first)
        while True:
            caller.sendall(drop)
            time.sleep(0.02)

    return serve


def silent(caller: socket.socket, request: str) -> None:
    while caller.recv(4096):
        pass


GRANT = Grant(Token(SECRET), "198.18.0.11", "", 1, 0.0)
ACTIONS: dict[str, Callable[[Docker], object]] = {
    "worker_token": lambda docker: docker.worker_token(),
    "init": lambda docker: docker.init("198.18.0.11", epoch=1, charter=""),
    "rotate_ca": lambda docker: docker.rotate_ca(),
    "rotate_worker_token": lambda docker: docker.rotate_worker_token(),
    "supersede": lambda docker: docker.supersede("pi2", 2),
    "join": lambda docker: docker.join("198.18.0.12", GRANT),
    "leave": lambda docker: docker.leave(),
    "bind": lambda docker: docker.bind(Bind("abc", "pi2", 1, "worker", {})),
    "promote": lambda docker: docker.promote("abc"),
    "demote": lambda docker: docker.demote("abc"),
    "remove": lambda docker: docker.remove("abc"),
}


def test_every_action_is_tried_here() -> None:
    public = {name for name in vars(Docker) if not name.startswith("_")}
    assert public == {*ACTIONS, "look", "restart", "trouble"}


# --- time ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "serve",
    [
        silent,
        dripping(b"", b"H"),
        dripping(b"HTTP/1.0 200 X\r\n", b"X-More: x\r\n"),
        dripping(b"HTTP/1.0 200 X\r\n\r\n", b" "),
        dripping(b"HTTP/1.0 200 X\r\nContent-Length: 100000\r\n\r\n", b" "),
    ],
    ids=["never", "byte by byte", "headers without end", "content without end", "a long content"],
)
def test_an_engine_that_takes_its_time_is_given_up(serve: Serve, tmp_path: Path) -> None:
    with pretending(tmp_path / "s", serve) as asked:
        docker = Docker(str(tmp_path / "s"), call=SOON)
        begun = time.monotonic()
        assert docker.look() is None
        for name in ("worker_token", "remove"):
            with pytest.raises(EngineError, match=r"no answer in time|headers of more"):
                ACTIONS[name](docker)
        assert time.monotonic() - begun < 3 * SOON + LATE
    assert asked == ["GET /version"] * 3


def test_all_calls_of_an_action_have_one_deadline(tmp_path: Path) -> None:
    """Each call ends in time; three of them do not."""

    def serve(caller: socket.socket, request: str) -> None:
        time.sleep(SOON * 0.4)
        body: object = {"Swarm": {"ControlAvailable": True}, "Version": {"Index": 1}, "Spec": {}}
        caller.sendall(http(200, {} if request == "GET /version" else body))

    with pretending(tmp_path / "s", serve) as asked:
        docker = Docker(str(tmp_path / "s"), call=SOON)
        raw = docker.look()
        assert raw is not None
        assert raw["swarm"] is None
        assert asked == ["GET /version", "GET /v1.40/info", "GET /v1.40/swarm"]


def test_an_engine_that_does_not_read_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        begun = time.monotonic()
        with pytest.raises(EngineError, match="no answer in time"):
            Docker(str(path), call=SOON)._calls().post("/x", "x" * (8 << 20))
        assert time.monotonic() - begun < SOON + LATE


def test_an_engine_that_does_not_accept_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(0)
        begun = time.monotonic()
        for _ in range(4):  # its queue is full from the second one on
            assert Docker(str(path), call=SOON).look() is None
        assert time.monotonic() - begun < 4 * SOON + LATE


# --- answers ------------------------------------------------------------------------------------

LONG = b"HTTP/1.0 200 X\r\nContent-Length: 50\r\n\r\n{}"
BROKEN = {
    "nothing": (b"", "hung up"),
    "half a head": (b"HTTP/1.0 200 X\r\nConte", "hung up"),
    "half a content": (LONG, "hung up"),
    "half an object": (b'HTTP/1.0 200 X\r\n\r\n{"Swarm": {"Lo', "not JSON"),
    "no JSON": (b"HTTP/1.0 200 X\r\n\r\n<html>", "not JSON"),
    "no UTF-8": (b'HTTP/1.0 200 X\r\n\r\n{"a": "\xff"}', "not JSON"),
    "a deep one": (b"HTTP/1.0 200 X\r\n\r\n" + b"[" * 100000, "not JSON"),
    "no content": (http(200, None), "no object"),
    "a list": (http(200, [SECRET]), "no object"),
    "no HTTP": (b"SWMTKN-1-digest-secret\r\n\r\n", "not HTTP"),
    "in pieces": (b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0", "not HTTP"),
    "a large head": (b"HTTP/1.0 200 X\r\nX: " + b"x" * MAX_HEAD + b"\r\n\r\n{}", "headers of more"),
    "endless": (b"HTTP/1.0 200 X\r\n\r\n" + b" " * (MAX_BYTES + 1), "more than"),
    "a large promise": (b"HTTP/1.0 200 X\r\nContent-Length: 999999999\r\n\r\n{}", "more than"),
    "a refusal": (http(500, {"message": "bad " + SECRET + ", really"}), r"^bad SWMTKN-\*\*\*"),
    "in two lines": (http(500, {"message": "one\n two"}), "^one two$"),
    "no reason": (http(503, [SECRET]), "dockerd answers 503"),
    "no text": (http(409, {"message": [SECRET]}), "dockerd answers 409"),
    "a bare refusal": (b"HTTP/1.0 500 X\r\n\r\nSWMTKN-1-digest-secret", "dockerd answers 500"),
    "an empty object": (http(200, {}), "has no "),
    "odd types": (http(200, {"Version": {"Index": "1"}, "Spec": {}}), "has no version"),
    "no spec": (http(200, {"Version": {"Index": 1}, "Spec": [SECRET]}), "has no Spec"),
}


@pytest.mark.parametrize(("said", "told"), BROKEN.values(), ids=BROKEN)
def test_what_is_no_answer_is_an_error_in_one_line_without_a_token(
    said: bytes, told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.DEBUG),
        pretending(tmp_path / "s", always(said)),
        pytest.raises(EngineError, match=told) as error,
    ):
        Docker(str(tmp_path / "s")).rotate_ca()
    for text in (str(error.value), repr(error.value), caplog.text):
        assert "secret" not in text
        assert "digest" not in text
        assert "\n" not in text
    assert error.value.__suppress_context__ or error.value.__context__ is None


@pytest.mark.parametrize("said", [said for said, _ in BROKEN.values()], ids=BROKEN)
def test_looking_at_what_is_no_answer_is_never_an_error(said: bytes, tmp_path: Path) -> None:
    with pretending(tmp_path / "s", always(said)):
        raw = Docker(str(tmp_path / "s")).look()
    assert raw is None or swarmview.Tracker(begun=0.0).follow(raw, 1.0).swarm is None


@pytest.mark.parametrize("name", ACTIONS)
def test_every_action_tells_what_the_engine_refuses(name: str, tmp_path: Path) -> None:
    said = http(500, {"message": "rpc error: " + SECRET})
    with (
        pretending(tmp_path / "s", always(said)),
        pytest.raises(EngineError, match=r"^rpc error: SWMTKN-\*\*\*$"),
    ):
        ACTIONS[name](Docker(str(tmp_path / "s")))


@pytest.mark.parametrize("name", ACTIONS)
def test_no_action_gets_anything_but_an_error_out_of_an_odd_object(
    name: str, tmp_path: Path
) -> None:
    odd = {"Version": {"Index": 1}, "Spec": {"Labels": 1, "CAConfig": [2]}, "JoinTokens": "no"}
    with pretending(tmp_path / "s", always(http(200, odd))) as asked:
        docker = Docker(str(tmp_path / "s"))
        if name == "worker_token":
            with pytest.raises(EngineError, match="has no JoinTokens"):
                ACTIONS[name](docker)
        else:
            ACTIONS[name](docker)
    assert asked


def test_an_answer_is_over_once_it_is_as_long_as_it_said(tmp_path: Path) -> None:
    """Whether the engine then hangs up or not."""

    def serve(caller: socket.socket, request: str) -> None:
        caller.sendall(http(200, {}))
        silent(caller, request)

    with pretending(tmp_path / "s", serve):
        begun = time.monotonic()
        assert Docker(str(tmp_path / "s")).look() is not None
        assert time.monotonic() - begun < LATE


def test_an_answer_may_be_as_large_as_the_bound(tmp_path: Path) -> None:
    text = b"{" + b" " * (MAX_BYTES - 2) + b"}"
    said = b"HTTP/1.0 200 X\r\n\r\n" + text
    with pretending(tmp_path / "s", always(said)):
        assert Docker(str(tmp_path / "s")).look() is not None


@pytest.mark.parametrize("node_id", ["", "a/../b", "a b", "a\r\nX: y", "ä", "a" * 65, "a?force=1"])
def test_only_an_id_becomes_a_part_of_a_request(node_id: str, tmp_path: Path) -> None:
    with pretending(tmp_path / "s", always(http(200, {}))) as asked:
        docker = Docker(str(tmp_path / "s"))
        for act in (docker.promote, docker.demote, docker.remove):
            with pytest.raises(EngineError, match="not the id of a node"):
                act(node_id)
    assert [one for one in asked if "/nodes" in one] == []


def test_a_thousand_looks_leave_no_file_open_and_no_memory_taken(tmp_path: Path) -> None:
    script = (
        "import os, resource, sys; from firstboot.engine import Docker\n"
        "docker = Docker(sys.argv[1])\n"
        "def many():\n"
        "    for _ in range(500): docker.look()\n"
        "many(); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "many(); after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(after - before, len(os.listdir('/proc/self/fd')))\n"
    )
    with pretending(tmp_path / "s", always(http(200, {"x": "y" * 100000}))):
        said = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "s")],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=Path(__file__).parents[2],
            check=True,
        )
    grown, files = (int(word) for word in said.stdout.split())
    assert grown < 1024, "kilobytes"
    assert files < 6


# --- why a look found nothing, or not all ---------------------------------------------------------

MANAGER = {"Swarm": {"ControlAvailable": True, "LocalNodeState": "active"}}
NO_LEADER = http(503, {"message": "rpc error: The swarm does not have a leader. " + SECRET})
TOLD = "rpc error: The swarm does not have a leader. SWMTKN-***"


def manager(*, swarm: Serve, nodes: Serve) -> Serve:
    """A manager's engine, by what it does when it is asked about its swarm."""

    def serve(caller: socket.socket, request: str) -> None:
        special = {"swarm": swarm, "nodes": nodes}
        plain = always(http(200, MANAGER))
        special.get(request.rpartition("/")[2], plain)(caller, request)

    return serve


@pytest.mark.parametrize(
    ("swarm", "nodes", "slow", "trouble"),
    [
        (always(http(200, {"ID": "s"})), always(http(200, [])), False, ""),
        (always(NO_LEADER), always(http(200, [])), False, TOLD),
        (always(http(200, {"ID": "s"})), always(NO_LEADER), False, TOLD),
        (silent, silent, True, "dockerd: no answer in time"),
        (always(http(200, {"ID": "s"})), silent, True, "dockerd: no answer in time"),
        (dripping(b"HTTP/1.0 200 X\r\n\r\n", b" "), silent, True, "dockerd: no answer in time"),
        (always(b""), silent, False, "dockerd: it hung up in the middle of an answer"),
    ],
    ids=["whole", "no leader", "no leader later", "silent", "silent later", "drips", "hangs up"],
)
def test_a_manager_that_is_slow_is_not_one_whose_swarm_has_no_leader(
    swarm: Serve, nodes: Serve, slow: bool, trouble: str, tmp_path: Path
) -> None:
    with pretending(tmp_path / "s", manager(swarm=swarm, nodes=nodes)):
        docker = Docker(str(tmp_path / "s"), call=SOON)
        raw = docker.look()
    assert raw is not None
    assert (raw["slow"], docker.trouble) == (slow, trouble)
    assert (raw["swarm"], raw["nodes"]) == ((None, None) if trouble else ({"ID": "s"}, []))


def test_dockerds_own_words_are_kept_until_it_answers(tmp_path: Path) -> None:
    docker = Docker(str(tmp_path / "s"))
    assert docker.trouble == ""
    assert docker.look() is None
    assert docker.trouble == "dockerd: No such file or directory"
    said = [http(500, {"message": "no room for " + SECRET}), http(200, {})]
    with pretending(tmp_path / "s", lambda caller, request: always(said[0])(caller, request)):
        assert docker.look() is None
        assert docker.trouble == "no room for SWMTKN-***"
        said.pop(0)
        assert docker.look() is not None
        assert docker.trouble == ""


def test_a_socket_that_this_program_may_not_use_is_told_as_such() -> None:
    """Root may use every socket, so somebody else asks, below a directory that is open to all."""
    need_root()
    script = (
        "import os, sys; from firstboot.engine import Docker; os.setuid(65534)\n"
        "docker = Docker(sys.argv[1]); print(docker.look(), docker.trouble)\n"
    )
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        path = Path(directory, "s")
        with pretending(path, always(http(200, {}))):
            path.chmod(0o600)
            said = subprocess.run(
                [sys.executable, "-c", script, str(path)],
                capture_output=True,
                text=True,
                timeout=60,
                cwd=Path(__file__).parents[2],
                check=True,
            )
    assert said.stdout == "None dockerd: Permission denied\n"


def test_an_engine_whose_queue_is_full_is_slow_and_not_away(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen(0)
        docker = Docker(str(tmp_path / "s"), call=SOON)
        for _ in range(3):
            docker.look()
            assert docker.trouble == "dockerd: no answer in time"


# --- versions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "spoken"),
    [
        ({"ApiVersion": "1.40", "MinAPIVersion": "1.12"}, "/v1.40"),
        ({"ApiVersion": "1.51", "MinAPIVersion": "1.24"}, "/v1.40"),
        ({"ApiVersion": "1.52", "MinAPIVersion": "1.44"}, "/v1.44"),
        ({"ApiVersion": "2.1", "MinAPIVersion": "2.0"}, "/v2.0"),
        ({}, "/v1.40"),
        ({"MinAPIVersion": 1.44}, "/v1.44"),
        ({"MinAPIVersion": "9" * 5000}, "/v1.40"),
        (["1.44"], "/v1.40"),
    ],
    ids=["19.03", "28", "29", "later", "says nothing", "a number", "a long one", "a list"],
)
def test_speaks_a_version_that_the_engine_knows(
    version: object, spoken: str, tmp_path: Path
) -> None:
    def serve(caller: socket.socket, request: str) -> None:
        caller.sendall(http(200, version if request == "GET /version" else {}))

    with pretending(tmp_path / "s", serve) as asked:
        assert Docker(str(tmp_path / "s")).look() is not None
    assert asked == ["GET /version", f"GET {spoken}/info"]


def test_an_engine_that_was_away_is_asked_anew_what_it_speaks(tmp_path: Path) -> None:
    docker = Docker(str(tmp_path / "s"))
    with pretending(tmp_path / "s", always(http(200, {}))):
        docker.look()
    assert docker.look() is None
    os.unlink(tmp_path / "s")
    newer = http(200, {"MinAPIVersion": "1.44"})
    with pretending(tmp_path / "s", lambda caller, _request: caller.sendall(newer)) as asked:
        docker.look()
    assert asked == ["GET /version", "GET /v1.44/info"]


# --- no engine, and its restart -----------------------------------------------------------------


def test_no_engine_is_no_error_to_who_looks(tmp_path: Path) -> None:
    docker = Docker(str(tmp_path / "docker.sock"))
    assert docker.look() is None
    with pytest.raises(EngineError, match="No such file"):
        docker.leave()


def test_a_file_that_is_no_socket_is_no_engine(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("")
    assert Docker(str(tmp_path / "s")).look() is None


def test_a_restart_that_fails_says_why_in_english_and_without_a_token() -> None:
    script = 'echo "$LC_ALL says SWM"TKN-1-digest-secret; exit 3'
    with pytest.raises(EngineError, match=r": C says SWMTKN-\*\*\*$"):
        Docker("/nowhere", restart=("sh", "-c", script)).restart()


def test_a_restart_by_a_program_that_is_not_there_is_an_error() -> None:
    with pytest.raises(EngineError, match="no-such-program"):
        Docker("/nowhere", restart=("no-such-program",)).restart()


def test_a_restart_that_hangs_is_given_up_whoever_has_its_output_open() -> None:
    begun = time.monotonic()
    script = "sleep 20 & exec sleep 20"
    with pytest.raises(EngineError, match="timed out"):
        Docker("/nowhere", restart=("sh", "-c", script), patience=SOON).restart()
    assert time.monotonic() - begun < SOON + LATE
