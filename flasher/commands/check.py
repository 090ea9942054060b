"""`piflash check`: everything that can be known before flashing, all problems at once."""

from __future__ import annotations

import argparse

from flasher import images, seed, weburl, yamltext
from flasher.commands import seeds
from flasher.commands.project import Project, cache_dir
from flasher.commands.ui import Ui
from flasher.model import NodeSpec, Role
from flasher.profile import Profile
from flasher.progress import for_stream


def run(args: argparse.Namespace, ui: Ui) -> int:
    """Check the cluster file and what is rendered for every node; touches no card and no key."""
    project = Project.load(args.cluster)
    profile = project.profile(project.spec.image)
    _check_what_is_there(project)
    problems = [
        problem
        for node in project.spec.nodes
        for problem in seed.problems(
            project.spec,
            node,
            profile=profile,
            templates=project.data.templates,
            schemas=project.cloud_init_schemas.schemas,
        )
    ]
    if problems:
        raise yamltext.failure(problems, file=str(project.file), hint="see docs/cloud-config.md")
    seeds.advise(project, ui, profile=profile)
    ui.result(_as_text(project, profile), _as_json(project, profile))
    return 0


def _check_what_is_there(project: Project) -> None:
    """Look at the cluster's memory and at an image on disk, without making either."""
    if not project.is_new:
        project.workspace.image_pin("")
    image = project.spec.image.text
    if image not in project.data.catalogue.images and not weburl.is_url(image):
        images.resolve(
            project.spec.image,
            catalogue=project.data.catalogue,
            base=project.directory,
            cache=cache_dir() / "images",
            pinned=None,
            progress=for_stream(quiet=True),
        )


def _as_text(project: Project, profile: Profile) -> str:
    spec = project.spec
    checked = project.cloud_init_schemas.source or "not had: piflash's own rules only"
    lines = [
        f"{project.file}: no problems",
        f"  cluster   {spec.name}, {spec.cluster_subnet}, domain {spec.domain}",
        f"  image     {spec.image.text} ({profile.title})",
        f"  seccomp   {spec.seccomp}: {profile.seccomp[spec.seccomp]}",
        f"  schema    cloud-init's: {checked}",
        "  nodes",
        *(_node_text(node) for node in spec.nodes),
    ]
    if len(spec.managers) == 1:
        lines.append("  one manager: when its card dies, the swarm is founded anew (epoch + 1)")
    if spec.stacks:
        lines.append(
            f"  stacks    {', '.join(spec.stacks)}: put on the managers' cards; this version does "
            "not deploy them yet"
        )
    return "\n".join(lines)


def _node_text(node: NodeSpec) -> str:
    what = "seed" if node.seed else node.role.value
    network = [
        node.lan.address if node.lan else "DHCP",
        *(["cable"] if node.ethernet else []),
        *([f"Wi-Fi {node.wifi.ssid}"] if node.wifi else []),
    ]
    return f"    {node.name:12} {what:8} {node.cluster_address:15} {', '.join(network)}"


def _as_json(project: Project, profile: Profile) -> object:
    spec = project.spec
    return {
        "file": str(project.file),
        "problems": [],
        "cluster": spec.name,
        "cluster_subnet": spec.cluster_subnet,
        "image": spec.image.text,
        "profile": profile.name,
        "seccomp": spec.seccomp,
        "cloud_init_schema": project.cloud_init_schemas.source or None,
        "managers": [node.name for node in spec.nodes if node.role is Role.MANAGER],
        "nodes": [
            {
                "name": node.name,
                "role": node.role.value,
                "seed": node.seed,
                "cluster_address": node.cluster_address,
                "lan": node.lan.address if node.lan else None,
                "wifi": node.wifi is not None,
            }
            for node in spec.nodes
        ],
    }
