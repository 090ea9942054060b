"""The cluster's authority and what it issues: node identities and permits. Pure but for its keys.

Random is only `new_authority`; everything issued is derived from it and the ticket, to the byte.
"""

from __future__ import annotations

import base64
import datetime
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from flasher.model import Identity, Role, Secret, Ticket

# Valid at every clock a Pi can wake up with (facts S13); RFC 5280, 4.1.2.5: the last date there is.
NOT_BEFORE = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
NOT_AFTER = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.timezone.utc)

PERMIT_KEY_BITS = 3072
MASTER_BYTES = 32

# SEC 2, 2.4.2: the order n of the base point of secp256r1.
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@dataclass(frozen=True)
class Authority:
    """All that a cluster's trust rests on. `ca_key` and `permit_key` are PEM, `master` is hex."""

    ca_pem: str
    ca_key: Secret
    permit_key: Secret
    master: Secret


def new_authority(*, cluster: str) -> Authority:
    """Make a cluster's CA, permit key and master secret: the only random things of a cluster."""
    ca_key = ec.generate_private_key(ec.SECP256R1())
    permit_key = rsa.generate_private_key(public_exponent=65537, key_size=PERMIT_KEY_BITS)
    return Authority(
        ca_pem=_ca_certificate(ca_key, cluster=cluster),
        ca_key=Secret(_pem(ca_key)),
        permit_key=Secret(_pem(permit_key)),
        master=Secret(secrets.token_bytes(MASTER_BYTES).hex()),
    )


def check_authority(authority: Authority) -> None:
    """Raise ValueError unless every key can be used and the CA's is that of its certificate."""
    try:
        certificate = x509.load_pem_x509_certificate(authority.ca_pem.encode())
        ca_key = _ca_key(authority)
        _try(_permit_key(authority))
        master = bytes.fromhex(authority.master.reveal())
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
        raise ValueError("its keys cannot be read") from None
    if ca_key.public_key() != certificate.public_key():
        raise ValueError("the CA key does not belong to the CA certificate")
    if len(master) != MASTER_BYTES:
        raise ValueError(f"the master secret does not have {MASTER_BYTES} bytes")


def issue(authority: Authority, *, cluster: str, role: Role, ticket: Ticket) -> Identity:
    """Give the identity of one flash; the same input gives the same bytes."""
    key = _node_key(authority, cluster=cluster, ticket=ticket)
    certificate = _node_certificate(authority, key, cluster=cluster, role=role, ticket=ticket)
    return Identity(
        ca_pem=authority.ca_pem,
        cert_pem=_certificate_pem(certificate),
        key_pem=Secret(_pem(key)),
        permit_modulus=permit_modulus(authority),
        permit_json=sign_permit(authority, cluster=cluster, ticket=ticket),
        charter_json=sign_charter(authority, cluster=cluster, ticket=ticket),
    )


def permit_modulus(authority: Authority) -> str:
    """Give the modulus of the permit key in lower-case hex; the exponent is 65537."""
    return f"{_permit_key(authority).public_key().public_numbers().n:x}"


def sign_permit(authority: Authority, *, cluster: str, ticket: Ticket) -> Secret | None:
    """Give the permit of a ticket that has one, as the JSON text that firstboot/permit.py reads.

    RSASSA-PKCS1-v1_5 (RFC 8017, 8.2) with SHA-256: why, is in docs/decisions/0001.
    """
    if ticket.permit is None:
        return None
    payload = _canonical(
        {
            "cluster": cluster,
            "seed": ticket.node,
            "generation": ticket.generation,
            "epoch": ticket.epoch,
            "kind": ticket.permit.value,
        }
    )
    return Secret(_sign(authority, payload))


def sign_charter(authority: Authority, *, cluster: str, ticket: Ticket) -> str | None:
    """Give the charter of the epoch that a ticket with a permit may found, as JSON text.

    Not a secret: it says that the operator allowed this epoch, and allows nothing by itself.
    """
    if ticket.permit is None:
        return None
    return _sign(authority, _canonical({"charter": cluster, "epoch": ticket.epoch}))


def _sign(authority: Authority, payload: bytes) -> str:
    signature = _permit_key(authority).sign(payload, padding.PKCS1v15(), hashes.SHA256())
    signed = {"payload": base64.b64encode(payload).decode(), "signature": signature.hex()}
    return _canonical(signed).decode() + "\n"


def stack_secret(authority: Authority, *, cluster: str, name: str) -> Secret:
    """Give the first value of a stack's secret: 32 URL-safe characters, 192 bits."""
    derived = _derive(authority, "stack-secret", cluster, name, size=24)
    return Secret(base64.urlsafe_b64encode(derived).decode())


def _canonical(data: Mapping[str, str | int]) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":")).encode()


def _derive(authority: Authority, purpose: str, *context: str | int, size: int) -> bytes:
    """HKDF-SHA256 (RFC 5869); a JSON list as info, so that no two contexts are the same bytes."""
    info = json.dumps(["piflash", 1, purpose, *context]).encode()
    hkdf = HKDF(algorithm=hashes.SHA256(), length=size, salt=None, info=info)
    return hkdf.derive(bytes.fromhex(authority.master.reveal()))


def _node_key(authority: Authority, *, cluster: str, ticket: Ticket) -> ec.EllipticCurvePrivateKey:
    # FIPS 186-5, A.2.1: 128 bits more than the order has make the bias of the reduction nothing.
    derived = _derive(authority, "node-key", cluster, ticket.node, ticket.generation, size=48)
    scalar = int.from_bytes(derived, "big") % (_P256_ORDER - 1) + 1
    return ec.derive_private_key(scalar, ec.SECP256R1())


def _node_certificate(
    authority: Authority,
    key: ec.EllipticCurvePrivateKey,
    *,
    cluster: str,
    role: Role,
    ticket: Ticket,
) -> x509.Certificate:
    ca = x509.load_pem_x509_certificate(authority.ca_pem.encode())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, cluster),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role.value),
            x509.NameAttribute(NameOID.COMMON_NAME, ticket.node),
        ]
    )
    names = x509.SubjectAlternativeName(
        [
            x509.DNSName(f"{ticket.node}.{cluster}.piflash"),
            x509.UniformResourceIdentifier(
                f"piflash://{cluster}/{role.value}/{ticket.node}/{ticket.generation}"
            ),
        ]
    )
    both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    authority_id = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
        ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    )
    serial = _derive(
        authority, "serial", cluster, role.value, ticket.node, ticket.generation, size=16
    )
    builder = (
        _dated(serial)
        .subject_name(subject)
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(both, critical=False)
        .add_extension(names, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(authority_id, critical=False)
    )
    return builder.sign(_ca_key(authority), hashes.SHA256(), ecdsa_deterministic=True)


def _ca_certificate(key: ec.EllipticCurvePrivateKey, *, cluster: str) -> str:
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, cluster),
            x509.NameAttribute(NameOID.COMMON_NAME, "piflash cluster CA"),
        ]
    )
    key_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        _dated(secrets.token_bytes(16))
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(key_id, critical=False)
    )
    return _certificate_pem(builder.sign(key, hashes.SHA256(), ecdsa_deterministic=True))


def _dated(serial: bytes) -> x509.CertificateBuilder:
    # RFC 5280, 4.1.2.2: positive and at most 20 bytes.
    return (
        x509.CertificateBuilder()
        .serial_number(int.from_bytes(serial, "big") + 1)
        .not_valid_before(NOT_BEFORE)
        .not_valid_after(NOT_AFTER)
    )


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _ca_key(authority: Authority) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(authority.ca_key.reveal().encode(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the CA key is not an EC key")
    return key


def _permit_key(authority: Authority) -> rsa.RSAPrivateKey:
    # OpenSSL's own validation takes 0.1 s each time; check_authority tries the key instead.
    key = serialization.load_pem_private_key(
        authority.permit_key.reveal().encode(), password=None, unsafe_skip_rsa_key_validation=True
    )
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError("the permit key is not an RSA key")
    return key


def _try(key: rsa.RSAPrivateKey) -> None:
    signature = key.sign(b"", padding.PKCS1v15(), hashes.SHA256())
    key.public_key().verify(signature, b"", padding.PKCS1v15(), hashes.SHA256())


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def _certificate_pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
