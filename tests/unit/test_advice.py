"""What the base image is too old for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flasher import advice
from flasher.errors import ClusterFileError
from flasher.model import ClusterSpec, Secret
from tests.support import specs
from tests.support.cluster import SSH_KEY

SECURITY_KEY = "sk-ssh-ed25519@openssh.com AAAA token"


def cluster(*keys: str, password: Secret | None = None, timezone: str = "UTC") -> ClusterSpec:
    spec = next(iter(specs.SHAPES.values()))
    user = replace(spec.user, ssh_authorized_keys=keys, password_hash=password)
    return replace(spec, user=user, timezone=timezone)


def test_refuses_a_card_that_nobody_could_log_in_to() -> None:
    with pytest.raises(ClusterFileError, match=r"OpenSSH 7\.9") as caught:
        advice.refuse_lockout(cluster(SECURITY_KEY), profile=specs.PROFILE)
    assert "ssh-keygen" in caught.value.hint


@pytest.mark.parametrize(
    "spec",
    [cluster(SECURITY_KEY, SSH_KEY), cluster(SECURITY_KEY, password=Secret("$6$a$b")), cluster()],
)
def test_another_way_in_is_enough(spec: ClusterSpec) -> None:
    advice.refuse_lockout(spec, profile=specs.PROFILE)


def test_warns_of_a_key_that_opens_nothing() -> None:
    (warning,) = advice.warnings(cluster(SECURITY_KEY, SSH_KEY), profile=specs.PROFILE)
    assert "sk-ssh-ed25519" in warning
    assert advice.warnings(cluster(SSH_KEY), profile=specs.PROFILE) == ()


def test_warns_of_a_time_zone_that_the_image_does_not_know() -> None:
    (warning,) = advice.warnings(cluster(SSH_KEY, timezone="Europe/Kyiv"), profile=specs.PROFILE)
    assert "Europe/Kiev" in warning
