"""Issued identities as others judge them: the openssl program, and Python's ssl in handshakes."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from flasher import pki
from flasher.model import Identity, Role
from tests.support.identity import issue, ticket
from tests.support.tools import need


@pytest.fixture(scope="module")
def stranger() -> Identity:
    """An identity of the same names, from another authority."""
    other = pki.new_authority(cluster="home")
    return pki.issue(other, cluster="home", role=Role.MANAGER, ticket=ticket())


def openssl(*arguments: str) -> subprocess.CompletedProcess[str]:
    need("openssl")
    return subprocess.run(
        ["openssl", *arguments], capture_output=True, text=True, timeout=30, check=False
    )


def save(directory: Path, identity: Identity) -> Path:
    directory.mkdir(parents=True)
    (directory / "ca.pem").write_text(identity.ca_pem)
    (directory / "node.pem").write_text(identity.cert_pem)
    (directory / "node.key").write_text(identity.key_pem.reveal())
    return directory


@pytest.mark.parametrize("purpose", ["sslserver", "sslclient"])
@pytest.mark.parametrize("clock", [0, 1_546_300_800, 1_790_000_000, 2_840_140_800, 253_402_214_400])
def test_openssl_verifies_it_at_any_clock_for_both_sides(
    tmp_path: Path, purpose: str, clock: int
) -> None:
    """1970, 2019, 2026, 2060 and the last day but one of 9999."""
    made = save(tmp_path / "pi1", issue(ticket()))
    done = openssl(
        "verify", "-x509_strict", "-attime", str(clock), "-purpose", purpose,
        "-verify_hostname", "pi1.home.piflash", "-CAfile", str(made / "ca.pem"),
        str(made / "node.pem"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_openssl_refuses_another_clusters_authority(tmp_path: Path, stranger: Identity) -> None:
    mine, theirs = save(tmp_path / "mine", issue(ticket())), save(tmp_path / "theirs", stranger)
    done = openssl("verify", "-CAfile", str(theirs / "ca.pem"), str(mine / "node.pem"))
    assert done.returncode != 0


def test_openssl_finds_no_fault_with_the_key(tmp_path: Path) -> None:
    made = save(tmp_path / "pi1", issue(ticket()))
    done = openssl("pkey", "-check", "-noout", "-in", str(made / "node.key"))
    assert "Key is valid" in done.stdout + done.stderr


def test_openssl_reads_the_names(tmp_path: Path) -> None:
    made = save(tmp_path / "pi1", issue(ticket(generation=7)))
    shown = openssl("x509", "-noout", "-text", "-in", str(made / "node.pem")).stdout
    assert "DNS:pi1.home.piflash, URI:piflash://home/manager/pi1/7" in shown
    assert "O = home, OU = manager, CN = pi1" in shown
    assert "Not After : Dec 31 23:59:59 9999 GMT" in shown


def test_a_node_cannot_issue_identities(tmp_path: Path) -> None:
    """A certificate signed with a node's key is refused, though the chain is complete."""
    made = save(tmp_path / "pi1", issue(ticket()))
    request, forged = tmp_path / "request.pem", tmp_path / "forged.pem"
    subprocess.run(
        ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", str(tmp_path / "forged.key"), "-subj", "/CN=pi2",
         "-out", str(request)],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    signing = openssl(
        "x509", "-req", "-in", str(request), "-CA", str(made / "node.pem"),
        "-CAkey", str(made / "node.key"), "-set_serial", "1", "-out", str(forged),
    )  # fmt: skip
    assert signing.returncode == 0, signing.stderr
    done = openssl(
        "verify", "-CAfile", str(made / "ca.pem"), "-untrusted", str(made / "node.pem"),
        str(forged),
    )  # fmt: skip
    assert done.returncode != 0
    assert "invalid CA certificate" in done.stdout + done.stderr


# --- handshakes -----------------------------------------------------------------------------------


def context(directory: Path, protocol: int) -> ssl.SSLContext:
    made = ssl.SSLContext(protocol)
    made.load_verify_locations(str(directory / "ca.pem"))
    made.load_cert_chain(str(directory / "node.pem"), str(directory / "node.key"))
    made.verify_mode = ssl.CERT_REQUIRED
    return made


def shake_hands(server: Path, client: Path, *, hostname: str) -> tuple[str, str]:
    """Let client and server meet in memory; give the names that each saw. SSLError if refused."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    serving = context(server, ssl.PROTOCOL_TLS_SERVER).wrap_bio(
        to_server, to_client, server_side=True
    )
    calling = context(client, ssl.PROTOCOL_TLS_CLIENT).wrap_bio(
        to_client, to_server, server_hostname=hostname
    )
    meet(calling, serving)
    return uri(calling), uri(serving)


def meet(*sides: ssl.SSLObject) -> None:
    """Take turns until both sides are done."""
    pending = list(sides)
    for _ in range(10):
        for side in list(pending):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
                pending.remove(side)
        if not pending:
            return
    raise AssertionError("the handshake came to no end")


def uri(side: ssl.SSLObject) -> str:
    """Give the URI of the other side's certificate."""
    peer = side.getpeercert()
    assert peer is not None
    names = peer["subjectAltName"]
    assert isinstance(names, Sequence)
    return next(str(value) for kind, value in names if kind == "URI")


def test_two_nodes_of_a_cluster_know_each_other(tmp_path: Path) -> None:
    seed = save(tmp_path / "pi1", issue(ticket("pi1", generation=2)))
    worker = save(tmp_path / "pi9", issue(ticket("pi9", permit=None), role=Role.WORKER))
    seen = shake_hands(seed, worker, hostname="pi1.home.piflash")
    assert seen == ("piflash://home/manager/pi1/2", "piflash://home/worker/pi9/1")
    seen = shake_hands(worker, seed, hostname="pi9.home.piflash")
    assert seen == ("piflash://home/worker/pi9/1", "piflash://home/manager/pi1/2")


def test_a_node_is_not_taken_for_another(tmp_path: Path) -> None:
    seed = save(tmp_path / "pi1", issue(ticket("pi1")))
    worker = save(tmp_path / "pi9", issue(ticket("pi9", permit=None), role=Role.WORKER))
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(worker, seed, hostname="pi1.home.piflash")


def test_a_node_of_another_cluster_is_refused_as_server_and_as_client(
    tmp_path: Path, stranger: Identity
) -> None:
    mine, theirs = save(tmp_path / "mine", issue(ticket())), save(tmp_path / "theirs", stranger)
    with pytest.raises(ssl.SSLError, match="VERIFY_FAILED"):
        shake_hands(theirs, mine, hostname="pi1.home.piflash")
    # The stranger trusts this cluster, so that only the server can refuse.
    (theirs / "ca.pem").write_text((mine / "ca.pem").read_text())
    with pytest.raises(ssl.SSLError, match="VERIFY_FAILED"):
        shake_hands(mine, theirs, hostname="pi1.home.piflash")


def test_a_node_without_a_certificate_is_refused(tmp_path: Path) -> None:
    mine = save(tmp_path / "mine", issue(ticket()))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    serving = context(mine, ssl.PROTOCOL_TLS_SERVER).wrap_bio(
        to_server, to_client, server_side=True
    )
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.load_verify_locations(str(mine / "ca.pem"))
    calling = bare.wrap_bio(to_client, to_server, server_hostname="pi1.home.piflash")
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        meet(calling, serving)
