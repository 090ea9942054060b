"""What a valid cluster file asks of its base image that the image cannot give. Pure."""

from __future__ import annotations

from flasher.errors import ClusterFileError
from flasher.model import ClusterSpec
from flasher.profile import Profile


def refuse_lockout(spec: ClusterSpec, *, profile: Profile) -> None:
    """ClusterFileError if the image's ssh server knows none of the keys, and there is no password.

    A card made so would boot into a node that nobody can log in to.
    """
    keys = spec.user.ssh_authorized_keys
    unknown = unknown_keys(spec, profile=profile)
    if keys and len(unknown) == len(keys) and spec.user.password_hash is None:
        kinds = ", ".join(dict.fromkeys(key.split()[0] for key in unknown))
        raise ClusterFileError(
            f"user.ssh_authorized_keys: {profile.login.ssh_server} of {profile.title} knows no "
            f"keys of type {kinds}: nobody could log in",
            hint="add a key of another type beside it: ssh-keygen -t ed25519",
        )


def unknown_keys(spec: ClusterSpec, *, profile: Profile) -> tuple[str, ...]:
    """Give those ssh keys whose type the image's ssh server does not know."""
    types = profile.login.unknown_key_types
    return tuple(key for key in spec.user.ssh_authorized_keys if key.split()[0] in types)


def warnings(spec: ClusterSpec, *, profile: Profile) -> tuple[str, ...]:
    """Give what will not work as written, and what to write instead."""
    found = [
        f"user.ssh_authorized_keys: {profile.login.ssh_server} of the image does not know "
        f"{key.split()[0]}: that key does not open a node"
        for key in unknown_keys(spec, profile=profile)
    ]
    older = profile.timezones.get(spec.timezone)
    if older:
        found.append(
            f"timezone: the image is older than the name {spec.timezone}, so its clock would show "
            f"UTC: write {older}"
        )
    return tuple(found)
