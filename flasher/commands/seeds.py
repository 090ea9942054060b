"""Builds and checks a node's seed from a project and a ticket: what check, render and flash share."""

from __future__ import annotations

from collections.abc import Mapping

from flasher import cloudconfig, pki, seed
from flasher.commands.project import Project
from flasher.commands.ui import Ui
from flasher.errors import ClusterFileError
from flasher.model import Identity, NodeSpec, Seed, Ticket
from flasher.profile import Profile


def profile_of(project: Project, profile_name: str) -> Profile:
    """Give the base image's profile."""
    return project.data.profiles[profile_name]


def build(
    project: Project,
    node: NodeSpec,
    *,
    ticket: Ticket,
    identity: Identity,
    profile: Profile,
    boot: Mapping[str, bytes],
) -> Seed:
    """Render the node's seed. `boot`: those of the image's boot files that the seed edits."""
    return seed.build(
        project.spec,
        node,
        ticket=ticket,
        identity=identity,
        profile=profile,
        templates=project.data.templates,
        firstboot=project.firstboot,
        stacks=project.data.stacks,
        boot=boot,
    )


def check(project: Project, node: NodeSpec, built: Seed, *, profile: Profile) -> None:
    """Check what was rendered. ClusterFileError if the user's cloud-config is to blame."""
    raise NotImplementedError


def warn_of_schema(project: Project, ui: Ui) -> None:
    """Say once when the official schema could not be had."""
    if project.cloud_init_schemas.warning:
        ui.warn([project.cloud_init_schemas.warning])


__all__ = [
    "ClusterFileError",
    "build",
    "check",
    "pki",
    "profile_of",
    "warn_of_schema",
    "cloudconfig",
]
