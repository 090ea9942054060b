from __future__ import annotations

import datetime
import hashlib
import hmac
import json
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from flasher import pki
from flasher.model import Identity, PermitKind, Role, Secret
from tests.support.identity import authority, issue, ticket

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def certificate(identity: Identity) -> x509.Certificate:
    return x509.load_pem_x509_certificate(identity.cert_pem.encode())


def private_value(identity: Identity) -> int:
    key = serialization.load_pem_private_key(identity.key_pem.reveal().encode(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key.private_numbers().private_value


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_the_same_ticket_gives_the_same_bytes_for_ever() -> None:
    """Frozen figures: a change here makes a reflash of the same generation another identity."""
    identity = issue(ticket())
    assert identity.permit_json is not None
    assert sha256(identity.cert_pem) == CERT
    assert sha256(identity.key_pem.reveal()) == KEY
    assert sha256(identity.permit_json.reveal()) == PERMIT


CERT = "f7cf48df1f3f5662a24abeb3b96ea459d5b8c0afb85a105b8a821c4a85ecf882"
KEY = "c81a959eef89ef3cda19ca964f542f26ddde5eb4628b5ad38b9b6fb63399bc6e"
PERMIT = "b89661749d5fb6ecb92800aed6ceef239758ce57b307813278ea05e7ad1ae254"


def test_the_node_key_is_hkdf_of_the_master_secret() -> None:
    """RFC 5869 with the standard library alone."""
    zero_salt = bytes(32)
    info = json.dumps(["piflash", 1, "node-key", "home", "pi1", 7]).encode()
    master = bytes.fromhex(authority().master.reveal())
    prk = hmac.new(zero_salt, master, "sha256").digest()
    first = hmac.new(prk, info + b"\x01", "sha256").digest()
    second = hmac.new(prk, first + info + b"\x02", "sha256").digest()
    expected = int.from_bytes((first + second)[:48], "big") % (ORDER - 1) + 1
    assert private_value(issue(ticket(generation=7))) == expected


def test_each_of_cluster_node_and_generation_gives_another_key() -> None:
    identities = [
        issue(ticket()),
        issue(ticket(generation=2)),
        issue(ticket("pi2")),
        issue(ticket(), cluster="lab"),
        issue(ticket("pi11", generation=1)),
        issue(ticket("pi1", generation=11)),
    ]
    assert len({private_value(identity) for identity in identities}) == 6
    assert len({certificate(identity).serial_number for identity in identities}) == 6


def test_two_authorities_share_nothing() -> None:
    other = replace(authority(), master=Secret("00" * 32))
    mine, theirs = (
        issue(ticket()),
        pki.issue(other, cluster="home", role=Role.MANAGER, ticket=ticket()),
    )
    assert private_value(mine) != private_value(theirs)


def test_the_certificate_names_node_role_and_generation() -> None:
    made = certificate(issue(ticket("pi2", generation=3, permit=None), role=Role.WORKER))
    assert made.subject.rfc4514_string() == "CN=pi2,OU=worker,O=home"
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["pi2.home.piflash"]
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
        "piflash://home/worker/pi2/3"
    ]


def test_the_certificate_is_valid_at_every_clock() -> None:
    ca = x509.load_pem_x509_certificate(authority().ca_pem.encode())
    for made in (ca, certificate(issue(ticket()))):
        assert made.not_valid_before_utc == datetime.datetime(
            1970, 1, 1, tzinfo=datetime.timezone.utc
        )
        assert made.not_valid_after_utc == datetime.datetime(
            9999, 12, 31, 23, 59, 59, tzinfo=datetime.timezone.utc
        )


def test_the_certificate_may_serve_and_call_but_not_sign_others() -> None:
    made = certificate(issue(ticket())).extensions
    assert made.get_extension_for_class(x509.BasicConstraints).value.ca is False
    usage = made.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    assert set(made.get_extension_for_class(x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    }


def test_the_authority_signed_it_and_is_named_in_it() -> None:
    ca = x509.load_pem_x509_certificate(authority().ca_pem.encode())
    made = certificate(issue(ticket()))
    made.verify_directly_issued_by(ca)
    named = made.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    own = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert named.key_identifier == own.digest
    constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (
        True,
        True,
        0,
    )


def test_a_new_authority_is_usable_and_random() -> None:
    made = pki.new_authority(cluster="lab")
    pki.check_authority(made)
    assert made.master != authority().master
    assert made.ca_pem != authority().ca_pem
    assert int(pki.permit_modulus(made), 16).bit_length() == 3072


def test_only_a_ticket_with_a_permit_carries_one() -> None:
    assert issue(ticket(permit=None)).permit_json is None
    assert issue(ticket(permit=PermitKind.REJOIN)).permit_json is not None


def test_a_stack_secret_is_32_url_safe_characters_and_its_own() -> None:
    made = pki.stack_secret(authority(), cluster="home", name="minio-root")
    other = pki.stack_secret(authority(), cluster="home", name="grafana")
    assert len(made.reveal()) == 32
    assert set(made.reveal()) <= set(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    )
    assert made != other
    assert made == pki.stack_secret(authority(), cluster="home", name="minio-root")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ca_pem": "no"}, "cannot be read"),
        ({"ca_key": Secret("no")}, "cannot be read"),
        ({"permit_key": Secret("no")}, "cannot be read"),
        ({"permit_key": authority().ca_key}, "cannot be read"),
        ({"ca_key": authority().permit_key}, "cannot be read"),
        ({"master": Secret("xyz")}, "cannot be read"),
        ({"master": Secret("00" * 31)}, "does not have 32 bytes"),
        ({"ca_key": issue(ticket()).key_pem}, "does not belong"),
    ],
)
def test_refuses_a_damaged_authority(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pki.check_authority(replace(authority(), **changes))  # type: ignore[arg-type]


def test_no_key_shows_in_a_repr() -> None:
    shown = repr(authority()) + repr(issue(ticket()))
    assert "PRIVATE" not in shown
    assert "payload" not in shown
    assert authority().master.reveal() not in shown


@settings(max_examples=15)
@given(st.integers(1, 2**64), st.from_regex(r"[a-z][a-z0-9-]{0,20}[a-z0-9]", fullmatch=True))
def test_any_ticket_gives_a_key_on_the_curve(generation: int, node: str) -> None:
    identity = issue(ticket(node, generation=generation, permit=None))
    assert 1 <= private_value(identity) < ORDER
    assert 0 < certificate(identity).serial_number < 1 << 159
