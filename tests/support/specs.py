"""Cluster descriptions built by hand, and seeds of them, for tests of everything behind spec.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flasher import profile, resources, seed, yamltext
from flasher.cloudconfig import Schemas
from flasher.model import (
    ClusterSpec,
    ExtraConfig,
    Identity,
    ImageRef,
    LanAddress,
    NodeSpec,
    PermitKind,
    Role,
    Secret,
    Seed,
    Ticket,
    User,
    Wifi,
)
from tests.support.baseimage import BOOT_FILES

FLASHED_AT = 1_750_000_000
HOSTILE = "a'b\"c: {{ d }} #e\n- f\\\t\u00e9\u2028\U0001f600 %g `h` $(i) *j &k !l"

_ROOT = resources.data_dir("cloud-init")
PROFILE = profile.parse((_ROOT / "profiles" / "hypriotos.json").read_text(encoding="utf-8"))
TEMPLATES = {
    path.name: path.read_text(encoding="utf-8") for path in (_ROOT / "templates").glob("*.j2")
}
STACKS: Mapping[str, Mapping[str, bytes]] = {
    "hello": {
        "stack.yml.j2": b'version: "3.8"\n# {{ domain }} {{ settings.greeting }}\n',
        "conf/a.txt": b"{{ as it is }}\n",
    }
}

LAN = LanAddress("192.168.1.11/24", "192.168.1.1", ("192.168.1.1", "9.9.9.9"))
WIFI = Wifi('Caf\u00e9 "x"', Secret("correct horse battery"), "DE")


def node(name: str = "pi1", **changes: Any) -> NodeSpec:
    """Give a node: by default the seed, on a cable with DHCP."""
    values: dict[str, Any] = {
        "name": name,
        "role": Role.MANAGER,
        "seed": True,
        "cluster_address": "198.18.42.11",
        "lan": None,
        "wifi": None,
        "ethernet": True,
        "labels": {"edge": "true"},
        "cloud_config": None,
    }
    return NodeSpec(**{**values, **changes})


WORKER = node(
    "pi2", role=Role.WORKER, seed=False, cluster_address="198.18.42.12", labels={"disk": "ssd"}
)


def cluster(*nodes: NodeSpec, **changes: Any) -> ClusterSpec:
    """Give a cluster of the nodes (pi1 and pi2 if none are given)."""
    values: dict[str, Any] = {
        "name": "home",
        "image": ImageRef("hypriotos-1.12.3"),
        "domain": "home.lan",
        "timezone": "Europe/Berlin",
        "user": User("pirate", ("ssh-ed25519 AAAAC3Nza you@laptop",), None),
        "cluster_subnet": "198.18.42.0/24",
        "nodes": nodes or (node(), WORKER),
        "stacks": {},
        "seccomp": "allow-all",
        "cloud_config": None,
    }
    return ClusterSpec(**{**values, **changes})


def extra(text: str, *, file: str = "extra.yaml") -> ExtraConfig:
    """Give the user's own cloud-config from its text."""
    document = yamltext.load(text, file=file)
    assert isinstance(document.data, dict)
    return ExtraConfig(document.data, yamltext.relative(document, ()))


EXTRA = """\
#cloud-config
locale: C.UTF-8
ssh_pwauth: true
users:
  - name: guest
    gecos: "Guest: {{ not a template }}"
    groups: [users]
    ssh_authorized_keys: ["ssh-ed25519 AAAA guest@home"]
write_files:
  - path: /etc/motd
    permissions: '0644'
    content: |
      Caf\u00e9 \U0001f600
runcmd:
  - [sh, -c, "echo 'a b' > /run/done"]
"""

# Everything that makes a rendering different: name -> cluster, the first node of which is meant.
SHAPES: Mapping[str, ClusterSpec] = {
    "dhcp": cluster(),
    "static": cluster(node(lan=LAN)),
    "static without gateway": cluster(node(lan=LanAddress("10.0.0.5/8", None, ()))),
    "wifi": cluster(node(ethernet=False, wifi=WIFI)),
    "wifi static": cluster(node(ethernet=False, wifi=WIFI, lan=LAN)),
    "cable and wifi": cluster(node(wifi=WIFI)),
    "worker": cluster(WORKER, node()),
    "docker's own seccomp": cluster(seccomp="default"),
    "password only": cluster(user=User("ops", (), Secret("$6$salt$hash"))),
    "password and keys": cluster(user=User("ops", ("a", "b"), Secret("$6$salt$hash"))),
    "extra": cluster(node(cloud_config=extra(EXTRA)), cloud_config=extra("timezone: UTC\n")),
    "hostile": cluster(
        node(wifi=Wifi("\U0001f600'\"\n: {{", Secret("'\"\\ {{ }} #$`"), "DE")),
        timezone=HOSTILE,
        user=User("ops", (HOSTILE, "\n", " x "), Secret(HOSTILE)),
    ),
}


def ticket(spec: ClusterSpec, number: int = 0, **changes: Any) -> Ticket:
    """Give the first ticket of the cluster's node with that number."""
    one = spec.nodes[number]
    values: dict[str, Any] = {
        "node": one.name,
        "generation": 1,
        "epoch": 1,
        "permit": PermitKind.GENESIS if one.seed else None,
        "flashed_at": FLASHED_AT,
    }
    return Ticket(**{**values, **changes})


def identity(of: Ticket, **changes: Any) -> Identity:
    """Give an identity that only looks like one."""
    values: dict[str, Any] = {
        "ca_pem": "CA\n",
        "cert_pem": f"CERT {of.node} {of.generation}\n",
        "key_pem": Secret(f"KEY {of.node} {of.generation}\n"),
        "permit_modulus": "c" + "0" * 767,
        "permit_json": Secret('{"payload": "x"}') if of.permit else None,
        "charter_json": '{"charter": 1}\n' if of.permit else None,
    }
    return Identity(**{**values, **changes})


def build(
    spec: ClusterSpec,
    number: int = 0,
    *,
    of: Ticket | None = None,
    who: Identity | None = None,
    firstboot: bytes = b"PK firstboot",
    stacks: Mapping[str, Mapping[str, bytes]] = STACKS,
    boot: Mapping[str, bytes] = BOOT_FILES,
    schemas: Schemas | None = None,
) -> Seed:
    """Build the seed of the cluster's node with that number."""
    of = of or ticket(spec, number)
    return seed.build(
        spec,
        spec.nodes[number],
        ticket=of,
        identity=who or identity(of),
        profile=PROFILE,
        templates=TEMPLATES,
        firstboot=firstboot,
        stacks=stacks,
        boot=boot,
        schemas=schemas,
    )


def text(built: Seed, path: str) -> str:
    """Give a file of the seed as text."""
    return built.files[path].content.decode("ascii")


def names(built: Seed) -> Sequence[str]:
    """Give the paths of a seed."""
    return tuple(built.files)
