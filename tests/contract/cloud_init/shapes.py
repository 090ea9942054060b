"""Cluster files and what their first node must become: cases for test_cloud_init_versions.py."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.support.cluster import SSH_KEY

HEAD = f"""\
name: home
timezone: Europe/Berlin
user: {{ssh_authorized_keys: ["{SSH_KEY}"]}}
network:
  cluster_subnet: 198.18.42.0/24
  lan: {{gateway: 192.168.1.1, dns: [192.168.1.1, 9.9.9.9]}}
  wifi: {{ssid: "Caf\u00e9 \U0001f600", psk: "correct horse battery", country: DE}}
"""
HASH = "$6$saltsalt$" + "x" * 86
OURS = "users,docker,video,input"
PIRATE = ["useradd", "pirate", "--comment", "piflash", "--groups", OURS]
SHELL = ["--shell", "/bin/bash", "-m"]
LOCKED = ["passwd", "-l", "pirate"]
SUDO = "pirate ALL=(ALL) NOPASSWD:ALL\n"

LO = "auto lo\niface lo inet loopback\n"
ALIAS = "\nauto eth0:1\niface eth0:1 inet static\n    address 198.18.42.11/24\n"
DHCP = f"{LO}\nauto eth0\niface eth0 inet dhcp\n{ALIAS}"
STATIC = f"""\
{LO}
auto eth0
iface eth0 inet static
    address 192.168.1.11/24
    dns-nameservers 192.168.1.1 9.9.9.9
    gateway 192.168.1.1
{ALIAS}"""
NO_CABLE = f"{LO}\niface eth0 inet dhcp\n"
WLAN = """\
allow-hotplug wlan0
iface wlan0 inet dhcp
    wpa-conf /etc/wpa_supplicant/wpa_supplicant.conf
"""
ON_WLAN = "    up ip -4 addr replace 198.18.42.11/24 dev wlan0 label wlan0:1\n"
# The key by openssl kdf PBKDF2 (SHA1, 4096 iterations, the name as salt).
SUPPLICANT = """\
country=DE
ctrl_interface=DIR=/var/run/wpa_supplicant GROUP=netdev
update_config=1
network={
    ssid=436166c3a920f09f9880
    scan_ssid=1
    key_mgmt=WPA-PSK
    psk=2310940660942d225b1f4815b9e0c6f7d9c8ff482fd9de38e56fcaea580f7727
}
"""
SECCOMP = '  "seccomp-profile": "/etc/docker/seccomp-allow-all.json",\n'
DAEMON = """\
{
%s  "log-driver": "json-file",
  "log-opts": {
    "max-size": "1m",
    "max-file": "2"
  }
}
"""


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


# The last command on a node with Wi-Fi: a text of its own, so a line of its own behind it.
WLAN0 = "ifup wlan0 || echo 'piflash: wlan0 did not come up' >&2\n\n"


@dataclass(frozen=True)
class Shape:
    """`node`: its mapping in the cluster file. `files`: path -> mode and content, or None."""

    node: str
    head: str = HEAD
    extra: bytes = b""
    timezone: str = "Europe/Berlin"
    users: tuple[list[str], ...] = ([*PIRATE, *SHELL], LOCKED)
    keys: Mapping[str, list[str]] = field(default_factory=lambda: {"pirate": [SSH_KEY]})
    sudo: str = SUDO
    network: str = DHCP
    files: Mapping[str, tuple[int, bytes] | None] = field(default_factory=dict)
    runcmd: str = ""


USERS = """\
#cloud-config
users:
- name: guest
  gecos: "G\u00e4ste: #1"
  groups: [users, audio]
  ssh_authorized_keys: [ssh-rsa B b, ssh-rsa A a]
- {name: backup-box, system: true, shell: /usr/sbin/nologin, no_create_home: true}
- name: ops
  groups: "adm, sudo"
  sudo: ["ALL=(ALL) ALL", "ALL=(root) NOPASSWD: /bin/ls"]
  lock_passwd: false
  passwd: "$5$s$h"
"""
BINARY = bytes(range(256))
FILES = f"""\
#cloud-config
write_files:
- {{path: /etc/motd, content: "Caf\u00e9 \U0001f600\\n"}}
- {{path: /etc/b64, content: {b64(BINARY)}, encoding: b64, permissions: '0600'}}
- {{path: /etc/gz, content: {b64(gzip.compress(BINARY))}, encoding: gz+b64, permissions: "0755"}}
- path: "/srv/gr\u00fc\u00dfe/a b.txt"
  content: "one\\r\\ntwo\\ttab\\x07\\n"
  permissions: '2750'
  owner: "root:adm"
- path: /opt/block
  content: |2
      indented
    less

    #not a comment: {{{{ no template }}}} %s $HOME
- path: /opt/folded
  content: >-
    one
    line
- {{path: /opt/empty, content: ""}}
"""
RUNCMD = """\
#cloud-config
runcmd:
- [sh, -c, "echo 'a b' > /run/done"]
- "echo \\"$HOME\\" | tr a-z A-Z   # stays"
- |
  if true; then
    echo caf\u00e9
  fi
- [printf, "%s\\\\n", "it's", "\\\\", "", "gr\u00fc\u00dfe \U0001f600"]
- [sleep, "1"]
"""
# What cloud-init's own shellify makes of the items above (cloudinit/util.py).
RAN = """\
'sh' '-c' 'echo '\\''a b'\\'' > /run/done'
echo "$HOME" | tr a-z A-Z   # stays
if true; then
  echo caf\u00e9
fi

'printf' '%s\\n' 'it'\\''s' '\\' '' 'gr\u00fc\u00dfe \U0001f600'
'sleep' '1'
"""

SHAPES: Mapping[str, Shape] = {
    "dhcp": Shape("{role: manager}"),
    "static": Shape("{role: manager, lan: 192.168.1.11/24}", network=STATIC),
    "worker": Shape("{role: worker}\n  pi2: {role: manager}"),
    "wifi only": Shape(
        "{role: manager, wifi: true, ethernet: false}",
        network=NO_CABLE,
        files={
            "/etc/network/interfaces.d/wlan0": (0o644, (WLAN + ON_WLAN).encode()),
            "/etc/wpa_supplicant/wpa_supplicant.conf": (0o600, SUPPLICANT.encode()),
        },
        runcmd=WLAN0,
    ),
    "wifi and cable": Shape(
        "{role: manager, wifi: true, lan: 192.168.1.11/24}",
        network=STATIC,
        files={"/etc/network/interfaces.d/wlan0": (0o644, WLAN.encode())},
        runcmd=WLAN0,
    ),
    "no wifi": Shape(
        "{role: manager}",
        files={
            "/etc/network/interfaces.d/wlan0": None,
            "/etc/wpa_supplicant/wpa_supplicant.conf": None,
        },
    ),
    "seccomp allow-all": Shape(
        "{role: manager}",
        files={
            "/etc/docker/daemon.json": (0o644, (DAEMON % SECCOMP).encode()),
            "/etc/docker/seccomp-allow-all.json": (
                0o644,
                b'{\n  "defaultAction": "SCMP_ACT_ALLOW"\n}\n',
            ),
        },
    ),
    "seccomp default": Shape(
        "{role: manager}",
        head=HEAD + "docker: {seccomp: default}\n",
        files={
            "/etc/docker/daemon.json": (0o644, (DAEMON % "").encode()),
            "/etc/docker/seccomp-allow-all.json": None,
        },
    ),
    "password": Shape(
        "{role: manager}",
        head=HEAD.replace("user: {", f'user: {{name: ops, password_hash: "{HASH}", '),
        users=(["useradd", "ops", *PIRATE[2:], "--password", HASH, *SHELL],),
        keys={"ops": [SSH_KEY]},
        sudo=SUDO.replace("pirate", "ops"),
    ),
    "several users": Shape(
        "{role: manager}",
        extra=USERS.encode(),
        users=(
            [*PIRATE, *SHELL],
            LOCKED,
            ["groupadd", "audio"],
            ["useradd", "guest", "--comment", "G\u00e4ste: #1", "--groups", "users,audio", "-m"],
            ["passwd", "-l", "guest"],
            ["useradd", "backup-box", "--shell", "/usr/sbin/nologin", "--system", "-M"],
            ["passwd", "-l", "backup-box"],
            ["useradd", "ops", "--groups", "adm,sudo", "--password", "$5$s$h", "-m"],
        ),
        keys={"pirate": [SSH_KEY], "guest": ["ssh-rsa A a", "ssh-rsa B b"]},
        sudo=SUDO + "ops ALL=(ALL) ALL\nops ALL=(root) NOPASSWD: /bin/ls\n",
    ),
    "files": Shape(
        "{role: manager}",
        extra=FILES.encode(),
        files={
            "/etc/motd": (0o644, "Caf\u00e9 \U0001f600\n".encode()),
            "/etc/b64": (0o600, BINARY),
            "/etc/gz": (0o755, BINARY),
            "/srv/gr\u00fc\u00dfe/a b.txt": (0o2750, b"one\r\ntwo\ttab\x07\n"),
            "/opt/block": (
                0o644,
                b"  indented\nless\n\n#not a comment: {{ no template }} %s $HOME\n",
            ),
            "/opt/folded": (0o644, b"one line"),
            "/opt/empty": (0o644, b""),
        },
    ),
    "runcmd": Shape("{role: manager}", extra=RUNCMD.encode(), runcmd=RAN),
    "runcmd after wifi": Shape(
        "{role: manager, wifi: true}",
        extra=b"#cloud-config\nruncmd: [[uptime]]\n",
        runcmd=WLAN0 + "'uptime'\n",
    ),
    "crlf": Shape(
        "{role: manager}",
        head=HEAD.replace("\n", "\r\n"),
        extra=(FILES + RUNCMD + "timezone: UTC\n").replace("\n", "\r\n").encode(),
        timezone="UTC",
        files={
            "/srv/gr\u00fc\u00dfe/a b.txt": (0o2750, b"one\r\ntwo\ttab\x07\n"),
            "/opt/block": (
                0o644,
                b"  indented\nless\n\n#not a comment: {{ no template }} %s $HOME\n",
            ),
        },
        runcmd=RAN,
    ),
}
