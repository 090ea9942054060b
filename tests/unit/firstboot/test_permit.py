from __future__ import annotations

import base64
import hashlib
import json
from functools import cache

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from firstboot.permit import Permit, PermitError, verify
from flasher import pki
from flasher.model import PermitKind
from tests.support.identity import authority, ticket

DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")
SIZE = 384


@cache
def modulus() -> str:
    return pki.permit_modulus(authority())


@cache
def signed() -> str:
    made = pki.sign_permit(authority(), cluster="home", ticket=ticket(generation=3, epoch=2))
    assert made is not None
    return made.reveal()


@cache
def key() -> rsa.RSAPrivateNumbers:
    loaded = serialization.load_pem_private_key(
        authority().permit_key.reveal().encode(), password=None
    )
    assert isinstance(loaded, rsa.RSAPrivateKey)
    return loaded.private_numbers()


def check(text: str, *, cluster: str = "home", node: str = "pi1", by: str = "") -> Permit:
    return verify(text, modulus=by or modulus(), cluster=cluster, node=node)


def canonical(data: object) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"))


def block(payload: bytes, *, info: bytes = DIGEST_INFO) -> bytes:
    end = b"\x00" + info + hashlib.sha256(payload).digest()
    return b"\x00\x01" + b"\xff" * (SIZE - 2 - len(end)) + end


def sign_block(payload: bytes, encoded: bytes) -> str:
    """Sign any block with the real key, as a forger of paddings would wish to."""
    numbers, message = key(), int.from_bytes(encoded, "big")
    # By the Chinese remainder theorem (RFC 8017, 5.2.1, 2b): four times as fast as by d.
    first = pow(message, numbers.dmp1, numbers.p)
    second = pow(message, numbers.dmq1, numbers.q)
    signature = second + numbers.q * (numbers.iqmp * (first - second) % numbers.p)
    return text_of(payload, signature.to_bytes(SIZE, "big").hex())


def text_of(payload: bytes, signature: str) -> str:
    encoded = base64.b64encode(payload).decode()
    return canonical({"payload": encoded, "signature": signature})


def payload_with(**changes: object) -> bytes:
    data = {"cluster": "home", "seed": "pi1", "generation": 3, "epoch": 2, "kind": "genesis"}
    return canonical({**data, **changes}).encode()


def outer() -> dict[str, str]:
    return dict(json.loads(signed()))


def test_accepts_what_the_cluster_signed() -> None:
    assert check(signed()) == Permit("home", "pi1", 3, 2, "genesis")


@pytest.mark.parametrize("kind", list(PermitKind))
def test_accepts_every_kind(kind: PermitKind) -> None:
    made = pki.sign_permit(authority(), cluster="home", ticket=ticket(permit=kind))
    assert made is not None
    assert check(made.reveal()).kind == kind.value


def test_the_forgers_own_tools_make_valid_permits() -> None:
    """Else the refusals below would prove nothing."""
    payload = payload_with()
    assert check(sign_block(payload, block(payload))).epoch == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cluster", "lab"),
        ("seed", "pi2"),
        ("generation", 4),
        ("epoch", 3),
        ("kind", "rebuild"),
    ],
)
def test_refuses_any_field_that_was_not_signed(field: str, value: object) -> None:
    with pytest.raises(PermitError, match="not that of this cluster's permit key"):
        check(text_of(payload_with(**{field: value}), outer()["signature"]))


def test_refuses_the_permit_of_another_cluster_or_node() -> None:
    with pytest.raises(PermitError, match="for cluster home, this is lab"):
        check(signed(), cluster="lab")
    with pytest.raises(PermitError, match="for node pi1, this is pi2"):
        check(signed(), node="pi2")


def test_refuses_another_key() -> None:
    with pytest.raises(PermitError, match="not 256 bytes"):
        check(signed(), by=f"{key().public_numbers.n >> 1024 | 1:x}")
    with pytest.raises(PermitError, match="not that of this cluster's permit key"):
        check(signed(), by=f"{key().public_numbers.n + 2:x}")


@pytest.mark.parametrize(
    "forge",
    [
        # Bleichenbacher 2006: short padding, the hash early, rubbish after it
        lambda p: (b"\x00\x01" + b"\xff" * 8 + block(p)[-52:]).ljust(SIZE, b"\x00"),
        lambda p: (b"\x00\x01" + b"\xff" * 8 + block(p)[-52:]).ljust(SIZE, b"\xa5"),
        lambda p: b"\x00\x01" + b"\xff" * 8 + b"\x00" + b"\xff" * 322 + block(p)[-51:],
        lambda p: block(p)[:-52] + b"\xff" + block(p)[-51:],  # no separator
        lambda p: b"\x00\x02" + block(p)[2:],  # the type of encryption
        lambda p: b"\x00\x01" + b"\xff" * 50 + b"\x7f" + block(p)[53:],  # a hole in the padding
        # DigestInfo without the NULL of its parameters
        lambda p: block(p, info=bytes.fromhex("302f300b0609608648016503040201")),
        # SHA-1's name before a SHA-256 hash
        lambda p: block(p, info=bytes.fromhex("3021300906052b0e03021a05000414")),
        lambda p: block(p, info=b""),
        lambda p: block(p + b" "),
    ],
)
def test_refuses_every_block_but_the_one_right_one(forge: object) -> None:
    payload = payload_with()
    encoded = forge(payload)  # type: ignore[operator]
    assert len(encoded) == SIZE
    with pytest.raises(PermitError, match="not that of this cluster's permit key"):
        check(sign_block(payload, encoded))


def test_refuses_a_signature_out_of_range() -> None:
    """s + n would verify too, were it let through: two texts for one permit."""
    n = key().public_numbers.n
    for generation in range(1, 100):
        payload = payload_with(generation=generation)
        s = int(json.loads(sign_block(payload, block(payload)))["signature"], 16)
        if s + n < 1 << SIZE * 8:
            break
    assert check(text_of(payload, f"{s:0{SIZE * 2}x}")).generation == generation
    with pytest.raises(PermitError, match="out of range"):
        check(text_of(payload, f"{s + n:0{SIZE * 2}x}"))


@pytest.mark.parametrize("signature", ["", "00", "0" * 767, "G" * 768, "A" * 768, "0" * 768])
def test_refuses_what_is_no_signature(signature: str) -> None:
    with pytest.raises(PermitError, match="signature"):
        check(text_of(payload_with(), signature))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "wish"}, "kind wish is not one of"),
        ({"generation": 0}, "both start at 1"),
        ({"epoch": -1}, "both start at 1"),
        ({"epoch": True}, "epoch is not of type int"),
        ({"generation": 1.0}, "generation is not of type int"),
        ({"seed": 1}, "seed is not of type str"),
        ({"more": 1}, "not an object of cluster, epoch"),
    ],
)
def test_refuses_a_payload_that_is_no_permit_even_if_it_was_signed(
    changes: dict[str, object], message: str
) -> None:
    payload = payload_with(**changes)
    with pytest.raises(PermitError, match=message):
        check(sign_block(payload, block(payload)))


def test_refuses_a_payload_that_is_not_ascii_even_if_it_was_signed() -> None:
    with pytest.raises(PermitError, match="not ASCII"):
        check(sign_block(b"\xff", block(b"\xff")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[" * 8000, "not JSON"),
        ("[]", "not an object of payload, signature"),
        ('{"payload":"","signature":"","more":1}', "not an object of payload, signature"),
        ('{"payload":1,"signature":""}', "payload is not of type str"),
        ('{"payload": "","signature":""}', "not in canonical form"),
        ('{"payload":"","payload":"","signature":""}', "not in canonical form"),
        ('{"payload":"%%%%","signature":""}', "not base64"),
        ('{"payload":"QR==","signature":""}', "not in canonical base64"),
        ("x" * 8193, "larger than 8192"),
    ],
)
def test_refuses_what_is_not_a_permit_file(text: str, message: str) -> None:
    with pytest.raises(PermitError, match=message):
        check(text)


@pytest.mark.parametrize(
    ("weak", "message"),
    [
        ("", "not an RSA modulus"),
        ("xyz", "not an RSA modulus"),
        ("f" * 2049, "not an RSA modulus"),
        ("3", "too weak"),
        ("f" * 511, "too weak"),
        ("f" * 767 + "e", "too weak"),
    ],
)
def test_refuses_a_permit_key_that_is_none(weak: str, message: str) -> None:
    with pytest.raises(PermitError, match=message):
        verify(signed(), modulus=weak, cluster="home", node="pi1")


@settings(max_examples=60)
@given(st.data())
def test_any_flipped_bit_is_refused(data: st.DataObject) -> None:
    text = bytearray(signed().rstrip("\n").encode())
    position = data.draw(st.integers(0, len(text) - 1))
    text[position] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(PermitError):
        check(text.decode("latin-1"))


@settings(max_examples=40)
@given(st.text(max_size=200) | st.builds(lambda p, s: text_of(p, s), st.binary(), st.text()))
def test_any_text_is_refused_in_one_way(text: str) -> None:
    with pytest.raises(PermitError):
        check(text)
