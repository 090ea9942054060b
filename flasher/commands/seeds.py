"""A node's seed from a project and a ticket: what check, render and flash share."""

from __future__ import annotations

from collections.abc import Mapping

from flasher import seed
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


def warn_of_schemas(project: Project, ui: Ui) -> None:
    """Say when cloud-init's official schemas could not be had."""
    if project.cloud_init_schemas.warning:
        ui.warn([project.cloud_init_schemas.warning])
