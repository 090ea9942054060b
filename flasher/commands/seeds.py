"""A node's seed from a project and a ticket: what check, render and flash share."""

from __future__ import annotations

from collections.abc import Mapping

from flasher import advice, seed
from flasher.commands.project import Project
from flasher.commands.ui import Ui
from flasher.model import Identity, NodeSpec, Seed, Ticket
from flasher.profile import Profile


def build(
    project: Project,
    node: NodeSpec,
    *,
    ticket: Ticket,
    identity: Identity,
    profile: Profile,
    boot: Mapping[str, bytes],
) -> Seed:
    """Render and check the node's seed. `boot`: those boot files of the image that it edits."""
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
        schemas=project.cloud_init_schemas.schemas,
    )


def advise(project: Project, ui: Ui, *, profile: Profile) -> None:
    """Warn of what will not work, or could not be checked. ClusterFileError for a lock-out."""
    advice.refuse_lockout(project.spec, profile=profile)
    ui.warn(advice.warnings(project.spec, profile=profile))
    if project.cloud_init_schemas.warning:
        ui.warn([project.cloud_init_schemas.warning])
