from __future__ import annotations

import datetime
import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from firstboot import swarmview
from firstboot.swarmview import Tracker
from tests.support.identity import authority

UTC = datetime.timezone.utc


def certificate(begin: datetime.datetime) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    # Long enough for lengths of more than one byte.
    parts = (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME)
    name = x509.Name([x509.NameAttribute(part, "swarm-ca" * 8) for part in parts])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=1))
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


@pytest.mark.parametrize("year", [1950, 1970, 1999, 2019, 2049, 2050, 2150])
def test_a_certificates_begin_is_read(year: int) -> None:
    begin = datetime.datetime(year, 2, 28, 23, 59, 58, tzinfo=UTC)
    assert swarmview.not_before(certificate(begin)) == begin.timestamp()


def test_the_first_certificate_counts() -> None:
    first, second = (datetime.datetime(year, 1, 1, tzinfo=UTC) for year in (2026, 1999))
    pem = certificate(first) + certificate(second)
    assert swarmview.not_before(pem) == first.timestamp()
    assert swarmview.not_before(authority().ca_pem.encode()) == 0.0


@pytest.mark.parametrize(
    "pem", [b"", b"rubbish", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_what_is_no_certificate_begins_never(pem: bytes) -> None:
    assert swarmview.not_before(pem) == 0.0


def test_the_digest_of_a_ca_is_base_36_of_its_sha256_in_50_characters() -> None:
    """Compared with a real join token in tests/lab (facts S15)."""
    text = swarmview.ca_digest(b"pem")
    assert len(text) == 50
    assert int(text, 36) == int.from_bytes(hashlib.sha256(b"pem").digest(), "big")
    assert swarmview.ca_digest(b"") == ""


INFO = {"Swarm": {"LocalNodeState": "active", "NodeID": "id-1", "ControlAvailable": True}}


def node(state: str = "ready", **more: object) -> dict[str, object]:
    return {
        "ID": "id-9",
        "Spec": {"Role": "worker", "Labels": {"piflash.name": "pi9"}},
        "Description": {"Hostname": "pi9"},
        "Status": {"State": state, "Addr": "198.18.0.12"},
        **more,
    }


def look(*nodes: dict[str, object]) -> dict[str, object]:
    swarm = {
        "ID": "swarm-1",
        "Spec": {"Labels": {"piflash.epoch": "2"}, "CAConfig": {"ForceRotate": 1}},
        "RootRotationInProgress": False,
        "TLSInfo": {"TrustRoot": ""},
    }
    return {"info": INFO, "swarm": swarm, "nodes": list(nodes)}


def test_an_entry_that_is_down_is_so_since_it_was_first_seen_so() -> None:
    tracker = Tracker(begun=0.0)
    times = [(10.0, "ready"), (20.0, "down"), (25.0, "disconnected"), (30.0, "ready")]
    found = []
    for now, state in times:
        view = tracker.follow(look(node(state)), now)
        assert view.swarm is not None
        found.append((view.swarm.entries[0].ready, view.swarm.entries[0].down_for))
    assert found == [(True, 0.0), (False, 0.0), (False, 5.0), (True, 0.0)]


def test_an_entry_that_was_up_in_between_begins_anew() -> None:
    tracker = Tracker(begun=0.0)
    for now, state in ((0.0, "down"), (10.0, "ready"), (20.0, "down")):
        view = tracker.follow(look(node(state)), now)
    assert view.swarm is not None
    assert view.swarm.entries[0].down_for == 0.0


def test_an_entry_that_was_not_watched_is_not_known_to_have_been_down() -> None:
    tracker = Tracker(begun=0.0)
    tracker.follow(look(node("down")), 0.0)
    tracker.follow({**look(), "swarm": None}, 10.0)
    view = tracker.follow(look(node("down")), 3600.0)
    assert view.swarm is not None
    assert view.swarm.entries[0].down_for == 0.0


def test_the_engine_is_as_it_is_since_it_changed() -> None:
    tracker = Tracker(begun=1.0)
    assert tracker.follow(None, 5.0).since == 1.0
    first = tracker.follow(look(), 10.0)
    assert (first.since, first.engine and first.engine.since) == (10.0, 10.0)
    assert tracker.follow(look(), 20.0).engine == first.engine
    assert tracker.follow(None, 30.0).since == 30.0


def test_a_managers_address_is_the_one_it_advertises() -> None:
    status = {"State": "ready", "Addr": "127.0.0.1"}
    manager = {"Addr": "198.18.0.11:2377", "Leader": True, "Reachability": "reachable"}
    entry = swarmview.read_entry(node(Status=status, ManagerStatus=manager))
    assert (entry.address, entry.leader, entry.reachable) == ("198.18.0.11", True, True)


def test_a_nameless_entry_of_a_failed_try_can_be_read() -> None:
    """Facts S16: it has neither a description nor an address."""
    entry = swarmview.read_entry({"ID": "x", "Spec": {}, "Status": {"State": "unknown"}})
    assert (entry.id, entry.name, entry.address, entry.ready) == ("x", "", "", False)


def test_an_engine_outside_of_a_swarm_has_no_swarm() -> None:
    view = Tracker(begun=0.0).follow({"info": {}, "swarm": None, "nodes": None}, 1.0)
    assert view.engine is not None
    assert (view.engine.state, view.engine.manager, view.swarm) == ("inactive", False, None)


@pytest.mark.parametrize("odd", [None, 1, "x", [], [1], {"Labels": [1]}, {"CAConfig": {"x": 1}}])
def test_what_is_of_another_type_counts_as_missing(odd: object) -> None:
    swarm = {"ID": odd, "Spec": odd, "TLSInfo": odd}
    entry = {"Spec": odd, "Description": odd, "Status": odd, "ManagerStatus": odd}
    raw = {"info": {"Swarm": odd}, "swarm": swarm, "nodes": [entry]}
    view = Tracker(begun=0.0).follow(raw, 1.0)
    assert view.engine is not None
    assert (view.engine.state, view.engine.manager) == ("inactive", False)
    assert view.swarm is not None
    assert (view.swarm.labels, view.swarm.rotations, view.swarm.epoch) == ({}, 0, 0)
    (found,) = view.swarm.entries
    assert (found.name, found.address, found.role, found.ready) == ("", "", "worker", False)
