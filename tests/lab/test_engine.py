"""firstboot.engine and firstboot.swarmview against real dockerds."""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from firstboot import swarmview
from firstboot.engine import Docker, EngineError
from firstboot.model import Bind, Engine, Grant, Token
from tests.lab import pythons
from tests.support import baseimage, dockerd
from tests.support.dockerd import Machines
from tests.support.engines import PATIENCE, Machine, until

CHARTER = '{"payload": "e30=", "signature": "00"}'
YEAR = 365.25 * 86400
MONTH = 30 * 86400


def state(machine: Machine, wanted: str) -> Callable[[], bool]:
    return lambda: machine.engine().state == wanted


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    dockerd.need()
    with Machines(tmp_path_factory.mktemp("machines")) as machines:
        yield machines


@pytest.fixture(scope="module")
def two(network: Machines) -> tuple[Machine, Machine]:
    made = []
    for name in ("pi1", "pi2"):
        machine = network.make(name)
        machine.power_on()
        made.append(Machine(machine))
    return made[0], made[1]


@pytest.fixture
def idle(two: tuple[Machine, Machine]) -> tuple[Machine, Machine]:
    """Two engines, in no swarm."""
    for machine in reversed(two):
        if not machine.machine.is_on:
            machine.machine.wipe()
            machine.machine.power_on()
        if machine.engine().state != "inactive":
            machine.docker.leave()
        until(state(machine, "inactive"))
    return two


@pytest.fixture
def founder(idle: tuple[Machine, Machine]) -> Machine:
    """The first of them, sole manager of a swarm."""
    idle[0].docker.init(idle[0].address, epoch=3, charter=CHARTER)
    until(lambda: idle[0].swarm() is not None)
    return idle[0]


@pytest.fixture
def joiner(founder: Machine, idle: tuple[Machine, Machine]) -> Machine:
    """The other one, a worker of it."""
    other = idle[1]
    other.join(founder)
    until(lambda: "pi2" in founder.entries() and founder.entries()["pi2"].ready)
    return other


# --- founding -----------------------------------------------------------------------------------


def test_an_engine_in_no_swarm_is_inactive(idle: tuple[Machine, Machine]) -> None:
    assert idle[0].engine() == Engine("inactive", 0.0)
    assert idle[0].swarm() is None


def test_founds_a_swarm_that_says_its_epoch_and_has_one_entry(founder: Machine) -> None:
    engine, swarm = founder.engine(), founder.swarm()
    assert (engine.state, engine.manager, engine.error) == ("active", True, "")
    assert swarm is not None
    assert (swarm.epoch, swarm.labels["piflash.charter"]) == (3, CHARTER)
    assert (swarm.rotations, swarm.rotating) == (0, False)
    (entry,) = swarm.entries
    assert (entry.id, entry.name, entry.role) == (engine.node_id, "pi1", "manager")
    assert (entry.ready, entry.leader, entry.reachable) == (True, True, True)
    assert entry.address == founder.address


def test_what_the_founder_does_not_say_is_as_docker_has_it(founder: Machine) -> None:
    spec = founder.docker._calls().get("/swarm")["Spec"]
    assert spec["Name"] == "default"
    assert spec["Dispatcher"]["HeartbeatPeriod"] == 5 * 10**9
    assert spec["Raft"]["SnapshotInterval"] == 10000
    assert spec["EncryptionConfig"]["AutoLockManagers"] is False


def test_who_is_in_a_swarm_cannot_found_another(founder: Machine) -> None:
    with pytest.raises(EngineError, match="already part of a swarm"):
        founder.docker.init(founder.address, epoch=4, charter="")
    swarm = founder.swarm()
    assert swarm is not None
    assert swarm.epoch == 3


# --- certificates -------------------------------------------------------------------------------


def dates(pem: bytes) -> tuple[float, float]:
    """What openssl makes of notBefore and notAfter."""
    said = baseimage.run("openssl", "x509", "-noout", "-dates", data=pem).decode()
    found = [line.partition("=")[2] for line in said.splitlines()]
    parsed = [datetime.strptime(text, "%b %d %H:%M:%S %Y GMT") for text in found]
    begin, end = (when.replace(tzinfo=timezone.utc).timestamp() for when in parsed)
    return begin, end


def rotate(founder: Machine) -> None:
    before = founder.read("swarm-root-ca.crt")
    founder.docker.rotate_ca()
    until(lambda: (seen := founder.swarm()) is not None and not seen.rotating)
    until(lambda: founder.read("swarm-root-ca.crt") != before)


def lasts(machine: Machine) -> float:
    begin, end = dates(machine.read("swarm-node.crt"))
    return end - begin


def test_after_one_rotation_all_certificates_are_of_ten_years(
    founder: Machine, idle: tuple[Machine, Machine]
) -> None:
    until(lambda: lasts(founder) > 0)
    # Facts S5: asking for them at `swarm init` is not enough. The rotation would not be needed.
    assert lasts(founder) < 4 * MONTH
    rotate(founder)
    until(lambda: lasts(founder) > 9.9 * YEAR)
    idle[1].join(founder)
    assert lasts(idle[1]) > 9.9 * YEAR
    swarm = founder.swarm()
    assert swarm is not None
    assert swarm.rotations == 1


def test_a_rotation_reaches_who_is_in_the_swarm_already(founder: Machine, joiner: Machine) -> None:
    assert lasts(joiner) < 4 * MONTH
    rotate(founder)
    until(lambda: lasts(joiner) > 9.9 * YEAR)
    assert joiner.engine().node_id in {entry.id for entry in founder.entries().values()}


def test_dates_and_digest_are_what_openssl_and_the_join_token_say(founder: Machine) -> None:
    for when in ("as founded", "after a rotation"):
        root, node = founder.read("swarm-root-ca.crt"), founder.read("swarm-node.crt")
        digest = founder.docker.worker_token().reveal().split("-")[2]
        assert swarmview.ca_digest(root) == digest, when
        assert swarmview.not_before(root) == dates(root)[0], when
        assert swarmview.not_before(node) == dates(node)[0], when
        swarm = founder.swarm()
        assert swarm is not None
        assert swarm.ca_since == dates(root)[0], when
        if when == "as founded":
            rotate(founder)


# --- joining and leaving ------------------------------------------------------------------------


def test_a_worker_joins_and_its_ca_is_the_leaders(founder: Machine, joiner: Machine) -> None:
    engine, entry = joiner.engine(), founder.entries()["pi2"]
    assert (engine.state, engine.manager, engine.node_id) == ("active", False, entry.id)
    assert (entry.role, entry.ready, entry.leader, entry.reachable) == (
        "worker",
        True,
        False,
        False,
    )
    assert entry.address == joiner.address
    assert joiner.read("swarm-root-ca.crt") == founder.read("swarm-root-ca.crt")
    assert joiner.swarm() is None


def test_a_worker_cannot_do_what_a_manager_does(joiner: Machine) -> None:
    for call in (joiner.docker.rotate_ca, joiner.docker.worker_token):
        with pytest.raises(EngineError, match="not a swarm manager"):
            call()


@pytest.mark.parametrize(
    ("part", "value"), [(2, "0" * 50), (3, "0" * 25)], ids=["another CA's digest", "no such secret"]
)
def test_a_wrong_token_is_refused_and_not_told(
    part: int,
    value: str,
    founder: Machine,
    idle: tuple[Machine, Machine],
    caplog: pytest.LogCaptureFixture,
) -> None:
    words = founder.docker.worker_token().reveal().split("-")
    words[part] = value
    token = Token("-".join(words))
    with caplog.at_level(logging.DEBUG), pytest.raises(EngineError) as refused:
        idle[1].join(founder, token)
    for text in (str(refused.value), repr(refused.value), repr(token), caplog.text):
        assert "SWMTKN" not in text.replace("SWMTKN-***", "")
        assert words[3] not in text
    assert refused.value.__cause__ is None
    until(state(idle[1], "inactive"))
    assert set(founder.entries()) == {"pi1"}
    idle[1].join(founder)
    until(state(idle[1], "active"))


def test_a_malformed_token_is_refused_and_not_told(idle: tuple[Machine, Machine]) -> None:
    with pytest.raises(EngineError) as refused:
        idle[1].join(idle[0], Token("SWMTKN-1-thisisthesecret"))
    assert "thisisthesecret" not in str(refused.value)


def test_after_a_join_to_a_dead_address_only_leaving_helps(
    founder: Machine, idle: tuple[Machine, Machine]
) -> None:
    """Facts S2, S17: what it says of itself counts, not what the call gave."""
    token = founder.docker.worker_token()
    dead = founder.address.rsplit(".", 1)[0] + ".250"
    begun = time.monotonic()
    with pytest.raises(EngineError):
        idle[1].docker.join(idle[1].address, Grant(token, dead, "", 1, 0.0))
    assert time.monotonic() - begun < 60
    assert idle[1].engine().state in ("pending", "error")
    with pytest.raises(EngineError, match=r"already part of a swarm|join"):
        idle[1].join(founder)
    idle[1].docker.leave()
    until(state(idle[1], "inactive"))
    idle[1].join(founder)
    until(state(idle[1], "active"))


def test_a_changed_token_lets_nobody_in_with_the_old_one(
    founder: Machine, idle: tuple[Machine, Machine]
) -> None:
    old = founder.docker.worker_token()
    founder.docker.rotate_worker_token()
    new = founder.docker.worker_token()
    assert new != old
    with pytest.raises(EngineError):
        idle[1].join(founder, old)
    until(state(idle[1], "inactive"))
    idle[1].join(founder, new)
    until(state(idle[1], "active"))


def test_even_a_sole_manager_leaves_and_nothing_of_its_swarm_stays(founder: Machine) -> None:
    founder.docker.leave()
    until(state(founder, "inactive"))
    swarm = founder.machine.data / "swarm"
    assert [path for path in swarm.rglob("*") if path.is_file()] == []


# --- nodes --------------------------------------------------------------------------------------


def test_binding_keeps_the_labels_that_somebody_else_set(founder: Machine, joiner: Machine) -> None:
    node_id = joiner.engine().node_id
    founder.docker._change(node_id, labels={"by.hand": "1", "room": "attic"})
    founder.docker.bind(Bind(node_id, "pi2", 4, "manager", {"room": "cellar"}))
    entry = founder.entries()["pi2"]
    assert entry.labels == {
        "by.hand": "1",
        "room": "cellar",
        "piflash.name": "pi2",
        "piflash.generation": "4",
        "piflash.role": "manager",
    }
    assert (entry.bound, entry.generation, entry.role) == ("pi2", 4, "worker")


def test_a_change_that_met_another_is_an_error(founder: Machine, joiner: Machine) -> None:
    node = founder.docker._calls().get("/nodes/" + joiner.engine().node_id)
    path = f"/nodes/{node['ID']}/update?version={node['Version']['Index']}"
    founder.docker._calls().post(path, dict(node["Spec"], Labels={"first": "1"}))
    with pytest.raises(EngineError, match="out of sequence"):
        founder.docker._calls().post(path, dict(node["Spec"], Labels={"second": "1"}))
    assert founder.entries()["pi2"].labels == {"first": "1"}


def test_superseding_keeps_epoch_charter_and_other_names(founder: Machine) -> None:
    founder.docker.supersede("pi2", 2)
    founder.docker.supersede("pi3", 7)
    founder.docker.supersede("pi2", 5)
    swarm = founder.swarm()
    assert swarm is not None
    assert swarm.labels == {
        "piflash.epoch": "3",
        "piflash.charter": CHARTER,
        "piflash.generation.pi2": "5",
        "piflash.generation.pi3": "7",
    }


def test_labels_of_the_swarm_outlive_both_rotations(founder: Machine) -> None:
    founder.docker.supersede("pi2", 2)
    founder.docker.rotate_worker_token()
    rotate(founder)
    swarm = founder.swarm()
    assert swarm is not None
    assert (swarm.epoch, swarm.labels["piflash.generation.pi2"]) == (3, "2")


def test_promoted_demoted_refused_while_ready_and_removed_once_it_left(
    founder: Machine, joiner: Machine
) -> None:
    node_id = joiner.engine().node_id
    founder.docker.promote(node_id)
    until(lambda: founder.entries()["pi2"].reachable and joiner.swarm() is not None)
    entry = founder.entries()["pi2"]
    assert (entry.role, entry.address) == ("manager", joiner.address)
    seen_by_the_other = joiner.entries()
    assert {name: one.leader for name, one in seen_by_the_other.items()} == {
        "pi1": True,
        "pi2": False,
    }
    assert seen_by_the_other["pi1"].address == founder.address
    with pytest.raises(EngineError, match=r"(?i)manager|is not down|cannot be removed"):
        founder.docker.remove(node_id)
    founder.docker.demote(node_id)
    until(lambda: not joiner.engine().manager and founder.entries()["pi2"].ready)
    with pytest.raises(EngineError, match="is not down"):
        founder.docker.remove(node_id)
    assert "pi2" in founder.entries()
    joiner.docker.leave()
    until(lambda: not founder.entries()["pi2"].ready)
    founder.docker.remove(node_id)
    assert set(founder.entries()) == {"pi1"}


def test_a_manager_without_a_quorum_says_so_before_long(founder: Machine, joiner: Machine) -> None:
    founder.docker.promote(joiner.engine().node_id)
    until(lambda: founder.entries()["pi2"].reachable and joiner.swarm() is not None)
    joiner.machine.pull_the_plug()
    until(lambda: founder.swarm() is None)
    begun = time.monotonic()
    raw = founder.docker.look()
    took = time.monotonic() - begun
    assert raw is not None
    assert (raw["swarm"], raw["nodes"]) == (None, None)
    assert founder.engine().manager
    assert took < 5, "the loop stands still meanwhile"


# --- the engine itself --------------------------------------------------------------------------


def test_a_restart_ends_once_the_engine_is_back_in_its_swarm(founder: Machine) -> None:
    before = founder.machine.command("pidof", "dockerd")
    was, node_id = baseimage.run(*before), founder.engine().node_id
    founder.docker.restart()
    assert baseimage.run(*before) != was
    until(lambda: founder.swarm() is not None)
    assert founder.engine().node_id == node_id


def test_a_real_engine_of_today_is_asked_in_the_oldest_version(
    idle: tuple[Machine, Machine],
) -> None:
    docker = Docker(idle[0].machine.socket)
    docker.look()
    assert docker._api == "/v1.40"


def test_the_python_of_the_pi_founds_and_looks(idle: tuple[Machine, Machine]) -> None:
    script = (
        "import sys; from firstboot import swarmview; from firstboot.engine import Docker\n"
        "docker = Docker(sys.argv[1]); docker.init(sys.argv[2], epoch=1, charter='')\n"
        "raw = docker.look(); docker.rotate_worker_token(); docker.rotate_ca()\n"
        "swarm = swarmview.read_swarm(raw['swarm'], raw['nodes'])\n"
        "print(swarm.epoch, swarm.ca_since > 0)\n"
    )
    done = subprocess.run(
        [pythons.oldest(), "-W", "error", "-c", script, idle[0].machine.socket, idle[0].address],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert (done.stdout.split(), done.stderr) == (["1", "True"], "")
