"""The rendered seed, taken by cloud-init's own code, and its scripts, run by a real shell."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import cloud_init as installed
from tests.support import specs
from tests.support.cloud_init import CloudInit
from tests.support.specs import FLASHED_AT, SHAPES
from tests.support.tools import need

# Each argument is a directory with `boot`, the boot partition; the seed lies where HypriotOS has
# it, as links into `boot`. Prints what the NoCloud source, the user-data processor, write_files
# (below `root`) and the ENI renderer make of it.
DRIVER = """
import contextlib, io, json, os, sys, tempfile
from cloudinit import distros, helpers, user_data, util
from cloudinit.config import cc_write_files
from cloudinit.net import eni, network_state
from cloudinit.sources.DataSourceNoCloud import DataSourceNoCloud

def take(directory):
    cloud, root = os.path.join(directory, "cloud"), os.path.join(directory, "root")
    seed = os.path.join(cloud, "seed", "nocloud-net")
    os.makedirs(seed)
    for name in ("user-data", "meta-data", "network-config"):
        os.symlink(os.path.join(directory, "boot", name), os.path.join(seed, name))
    paths = helpers.Paths({"cloud_dir": cloud, "run_dir": os.path.join(directory, "run")})
    distro = distros.fetch("debian")("debian", {}, paths)
    config = {"datasource": {"NoCloud": {"fs_label": None}}}
    source = DataSourceNoCloud(config, distro, paths)
    assert source._get_data()
    message = user_data.UserDataProcessor(paths).process(source.get_userdata_raw())
    (part,) = [part for part in message.walk() if not part.is_multipart()]
    data = util.load_yaml(part.get_payload(decode=True))
    if os.getuid():
        util.chownbyname = lambda *args: None
    files = [dict(file, path=root + file["path"]) for file in data["write_files"]]
    cc_write_files.write_files("write_files", files, "root:root")
    state = network_state.parse_net_config_data(source.network_config)
    eni.Renderer().render_network_state(state, target=os.path.join(directory, "net"))
    return {
        "type": part.get_content_type(),
        "instance_id": source.get_instance_id(),
        "hostname": str(source.get_hostname().hostname),
        "eni": open(os.path.join(directory, "net/etc/network/interfaces")).read(),
        "data": data,
    }

results = {}
noise = io.StringIO()
with contextlib.redirect_stdout(noise):
    for directory in sys.argv[1:]:
        results[directory] = take(directory)
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[Path, Any]]:
    """What cloud-init makes of every shape: name -> its directory and the driver's findings."""
    cloud_init: CloudInit = installed.cloud_init("trixie")
    directories = {}
    for name, spec in SHAPES.items():
        directories[name] = tmp_path_factory.mktemp("shape")
        lay_out(directories[name] / "boot", spec)
    done = cloud_init.execute("-c", DRIVER, *map(str, directories.values()))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return {name: (path, found[str(path)]) for name, path in directories.items()}


def lay_out(boot: Path, spec: Any) -> None:
    for name, file in specs.build(spec).files.items():
        path = boot / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)


def stanzas(text: str) -> list[str]:
    """The lines of an interfaces file that mean something, sorted within their stanza."""
    lines = [line.strip() for line in text.splitlines() if not line.strip().startswith("#")]
    parts = re.split(r"\n(?=auto|iface)", "\n".join(line for line in lines if line))
    return [" / ".join([part.split("\n")[0], *sorted(part.split("\n")[1:])]) for part in parts]


@pytest.mark.parametrize("name", SHAPES)
def test_cloud_init_takes_the_seed(name: str, taken: Mapping[str, tuple[Path, Any]]) -> None:
    spec = SHAPES[name]
    _, found = taken[name]
    assert found["type"] == "text/cloud-config"
    assert found["instance_id"] == specs.build(spec).instance_id
    assert found["hostname"] == spec.nodes[0].name
    assert found["data"] == yaml.safe_load(specs.build(spec).files["user-data"].content)


@pytest.mark.parametrize("name", SHAPES)
def test_interfaces_file_is_what_cloud_init_makes_of_network_config(
    name: str, taken: Mapping[str, tuple[Path, Any]]
) -> None:
    directory, found = taken[name]
    ours = directory / "root/etc/network/interfaces.d/50-cloud-init.cfg"
    assert stanzas(ours.read_text()) == stanzas(found["eni"])


def test_interfaces_of_each_kind(taken: Mapping[str, tuple[Path, Any]]) -> None:
    lo = ["auto lo", "iface lo inet loopback"]
    cluster = ["auto eth0:1", "iface eth0:1 inet static / address 198.18.42.11/24"]
    static = (
        "iface eth0 inet static / address 192.168.1.11/24 / "
        "dns-nameservers 192.168.1.1 9.9.9.9 / gateway 192.168.1.1"
    )
    expected = {
        "dhcp": [*lo, "auto eth0", "iface eth0 inet dhcp", *cluster],
        "static": [*lo, "auto eth0", static, *cluster],
        "wifi": [*lo, "iface eth0 inet dhcp"],
    }
    for name, lines in expected.items():
        assert stanzas(taken[name][1]["eni"]) == lines


def test_files_are_written_with_their_content_and_permissions(
    taken: Mapping[str, tuple[Path, Any]],
) -> None:
    directory, found = taken["wifi"]
    for file in found["data"]["write_files"]:
        path = directory / "root" / file["path"].lstrip("/")
        assert path.read_text() == file["content"]
        assert stat.S_IMODE(path.stat().st_mode) == int(file["permissions"], 8)
    daemon = directory / "root/etc/docker/daemon.json"
    assert json.loads(daemon.read_text())["log-driver"] == "json-file"


# --- the scripts --------------------------------------------------------------------------------


# Every directory that the scripts name.
PATHS = ("/var/lib/cloud", "/usr/local/lib", "/boot/", "/etc/", "/run/", "/home/", "/var/log/")
ACCOUNTS = ("passwd", "shadow", "group", "gshadow", "subuid", "subgid")


@dataclass(frozen=True)
class Pi:
    """A root file system in a directory, and stand-ins for the programs that the scripts run."""

    root: Path

    def run(self, commands: list[Any], **environment: str) -> list[str]:
        """Run as cloud-init does: one sh script of all commands. Gives what the stand-ins noted."""
        script = "\n".join(
            item if isinstance(item, str) else " ".join(f"'{word}'" for word in item)
            for item in commands
        )
        for path in PATHS:
            script = re.sub(rf"(?<![\w/.]){path}", f"{self.root}{path}", script)
        # These scripts remove things: nothing of the machine's own may be left in them.
        outside = re.findall(r"(?<![\w.>/])/[\w.*$-][\w/.*$-]*", script)
        assert all(path.startswith((str(self.root), "/dev/null")) for path in outside), outside
        log = self.root / "log"
        log.write_text("")
        done = subprocess.run(
            ["/bin/sh", "-c", script],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={
                "PATH": f"{self.root}/bin:{os.environ['PATH']}",
                "LOG": str(log),
                "LC_ALL": "C",
                **environment,
            },
        )
        assert done.stderr == "", done.stderr
        return log.read_text().splitlines()

    def exists(self, path: str) -> bool:
        return (self.root / path).exists()


@pytest.fixture
def pi(tmp_path: Path) -> Pi:
    for program in ("systemctl", "ifup", "sync", "reboot", "ip", "date", "fake-hwclock"):
        path = tmp_path / "bin" / program
        path.parent.mkdir(exist_ok=True)
        noted = "" if program == "sync" else 'echo "${0##*/} $*" >> "$LOG"\n'
        answers = {
            "ip": 'case "$*" in *" show "*) echo "$ADDRESSES";; esac\n',
            "date": 'case "$*" in *+%s) echo "$NOW";; esac\n',
        }
        path.write_text(f"#!/bin/sh\n{noted}{answers.get(program, '')}")
        path.chmod(0o755)
    for directory in ("var/lib/cloud/instances/i/sem", "var/lib/cloud/data", "etc/apt", "run"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "home").mkdir()
    for file in ACCOUNTS:
        (tmp_path / "etc" / file).write_text("of the image\n")
        (tmp_path / "etc" / file).chmod(0o640)
    (tmp_path / "var/lib/cloud/instance").symlink_to(tmp_path / "var/lib/cloud/instances/i")
    (tmp_path / "var/lib/cloud/data/instance-id").write_text("i\n")
    (tmp_path / "etc/apt/sources.list").write_text(
        "deb http://raspbian.raspberrypi.org/raspbian/ buster main contrib non-free rpi\n"
        "deb http://archive.raspberrypi.org/debian/ buster main\n"
        "deb http://raspbian-raspberrypi.org/mine/ buster main\n"
    )
    lay_out(tmp_path / "boot", specs.cluster())
    return Pi(tmp_path)


def config(shape: str) -> Any:
    return yaml.safe_load(specs.build(SHAPES[shape]).files["user-data"].content)


CLUSTER = "2: eth0    inet 198.18.42.11/24 brd 198.18.42.255 scope global eth0:1"
START = ["systemctl daemon-reload", "systemctl enable piflash.service"]
DONE = "var/lib/cloud/instance/piflash-done"
BEGUN = "var/lib/cloud/instance/piflash-begun"


def test_service_is_installed_from_the_card(pi: Pi) -> None:
    noted = pi.run(config("dhcp")["runcmd"], ADDRESSES=CLUSTER)
    installed = pi.root / "usr/local/lib/piflash/firstboot.pyz"
    assert installed.read_bytes() == (pi.root / "boot/piflash/firstboot.pyz").read_bytes()
    assert pi.exists(DONE)
    assert noted == [
        "ifup eth0",
        "ip -4 -o addr show dev eth0 label eth0:1",
        "systemctl --no-block try-restart avahi-daemon.service",
        *START,
        "systemctl --no-block start piflash.service",
    ]
    assert pi.run(config("dhcp")["runcmd"], ADDRESSES=CLUSTER) == noted


def test_package_sources_are_mended_and_others_left(pi: Pi) -> None:
    for _ in range(2):
        pi.run(config("dhcp")["runcmd"], ADDRESSES=CLUSTER)
        assert (pi.root / "etc/apt/sources.list").read_text() == (
            "deb http://legacy.raspbian.org/raspbian/ buster main contrib non-free rpi\n"
            "deb http://archive.raspberrypi.org/debian/ buster main\n"
            "deb http://raspbian-raspberrypi.org/mine/ buster main\n"
        )


def fail_to_install(pi: Pi) -> list[str]:
    (pi.root / "bin/systemctl").rename(pi.root / "bin/systemctl.good")
    (pi.root / "bin/systemctl").write_text("#!/bin/sh\nexit 1\n")
    (pi.root / "bin/systemctl").chmod(0o755)
    noted = pi.run(config("dhcp")["runcmd"], ADDRESSES=CLUSTER)
    (pi.root / "bin/systemctl.good").rename(pi.root / "bin/systemctl")
    return noted


def test_first_boot_is_not_done_before_the_service_is_there(pi: Pi) -> None:
    noted = fail_to_install(pi)
    assert not pi.exists(DONE)
    assert not set(START) & set(noted)
    assert "BLOCKED" in (pi.root / "boot/piflash/status.txt").read_text()


def test_a_failed_install_is_tried_again_and_undoes_nothing(pi: Pi) -> None:
    """It is no power cut: what the owner has put into the homes since then stays."""
    guard = config("dhcp")["bootcmd"][1:]
    pi.run(guard)
    fail_to_install(pi)
    (pi.root / "home/pirate").mkdir()
    (pi.root / "home/pirate/thesis").write_text("of weeks")
    (pi.root / "etc/passwd").write_text("of the image\npirate\n")
    noted = pi.run(guard)
    assert noted == [*START, "systemctl --no-block start piflash.service"]
    assert pi.exists(DONE)
    assert (pi.root / "home/pirate/thesis").read_text() == "of weeks"
    assert "pirate" in (pi.root / "etc/passwd").read_text()
    assert pi.run(guard) == []


def test_what_cannot_be_undone_does_not_reboot_for_ever(pi: Pi) -> None:
    guard = config("dhcp")["bootcmd"][1:]
    pi.run(guard)
    (pi.root / "bin/rm").write_text("#!/bin/sh\nexit 1\n")
    (pi.root / "bin/rm").chmod(0o755)
    assert pi.run(guard) == []


def test_addresses_that_are_missing_are_brought_up(pi: Pi) -> None:
    noted = pi.run(config("static")["runcmd"], ADDRESSES="2: eth0    inet 192.168.1.99/24 scope")
    assert [line for line in noted if line.startswith(("ifup", "ip -4 addr"))] == [
        "ip -4 addr flush dev eth0",
        "ifup --force eth0",
        "ifup --force eth0:1",
    ]


def test_fallback_dhcp_client_is_stopped_before_the_static_address(pi: Pi) -> None:
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        (pi.root / "run/dhclient.eth0.pid").write_text(f"{sleeper.pid}\n")
        pi.run(config("static")["runcmd"], ADDRESSES="")
        assert sleeper.wait(timeout=10) < 0
    finally:
        sleeper.kill()


def test_addresses_that_are_there_are_left_alone(pi: Pi) -> None:
    lan = "2: eth0    inet 192.168.1.11/24 brd 192.168.1.255 scope global eth0"
    noted = pi.run(config("static")["runcmd"], ADDRESSES=f"{lan}\n{CLUSTER}")
    assert not [line for line in noted if line.startswith(("ifup", "ip -4 addr"))]


def test_wifi_is_brought_up_last(pi: Pi) -> None:
    noted = pi.run(config("wifi")["runcmd"], ADDRESSES="")
    assert noted[-2:] == ["systemctl --no-block start piflash.service", "ifup wlan0"]


@pytest.mark.parametrize(
    ("now", "steps"),
    [(0, [f"date -u -s @{FLASHED_AT}"]), (FLASHED_AT, []), (FLASHED_AT + 5, [])],
)
def test_clock_is_only_ever_set_forward(now: int, steps: list[str], pi: Pi) -> None:
    noted = pi.run(config("dhcp")["bootcmd"][:1], NOW=str(now))
    assert noted[0] == "fake-hwclock load"
    assert [line for line in noted if " -s " in line] == steps


def test_first_boot_that_was_cut_off_starts_again(pi: Pi) -> None:
    guard = config("dhcp")["bootcmd"][1:]
    assert pi.run(guard) == []
    assert pi.exists(BEGUN)
    assert pi.run(guard) == ["reboot -f"]
    assert not pi.exists("var/lib/cloud/data/instance-id")
    assert not pi.exists("var/lib/cloud/instances")
    assert pi.exists("var/lib/cloud/data")


def test_users_half_made_by_the_first_try_are_undone(pi: Pi) -> None:
    """useradd writes one file after the other, and cloud-init leaves alone whoever is in passwd."""
    guard = config("dhcp")["bootcmd"][1:]
    (pi.root / "home/old").mkdir()
    pi.run(guard)
    (pi.root / "etc/passwd").write_text("of the image\npirate\n")
    (pi.root / "etc/passwd.lock").write_text("")
    (pi.root / "home/pirate/.ssh").mkdir(parents=True)
    pi.run(guard)
    assert {(pi.root / "etc" / file).read_text() for file in ACCOUNTS} == {"of the image\n"}
    assert {(pi.root / "etc" / file).stat().st_mode & 0o777 for file in ACCOUNTS} == {0o640}
    assert sorted(path.name for path in (pi.root / "etc").iterdir()) == sorted([*ACCOUNTS, "apt"])
    assert [path.name for path in (pi.root / "home").iterdir()] == ["old"]


def test_accounts_are_left_alone_once_the_first_boot_is_whole(pi: Pi) -> None:
    guard = config("dhcp")["bootcmd"][1:]
    pi.run(guard)
    (pi.root / "etc/passwd").write_text("of the image\npirate\n")
    (pi.root / "home/pirate").mkdir()
    pi.run(config("dhcp")["runcmd"], ADDRESSES=CLUSTER)
    pi.run(guard)
    assert (pi.root / "etc/passwd").read_text() == "of the image\npirate\n"
    assert pi.exists("home/pirate")
    assert not pi.exists("var/lib/cloud/piflash-accounts")


def test_boots_after_a_whole_first_one_change_nothing(pi: Pi) -> None:
    guard = config("dhcp")["bootcmd"][1:]
    pi.run(guard)
    pi.run(config("dhcp")["runcmd"], ADDRESSES=CLUSTER)
    assert pi.run(guard) == []
    assert pi.exists("var/lib/cloud/data/instance-id")


@pytest.mark.parametrize("shape", SHAPES)
def test_scripts_are_correct_for_the_shell_of_debian(shape: str, tmp_path: Path) -> None:
    need("dash")
    for key in ("bootcmd", "runcmd"):
        script = tmp_path / key
        script.write_text(
            "\n".join(i if isinstance(i, str) else "true" for i in config(shape)[key])
        )
        done = subprocess.run(
            ["dash", "-n", str(script)], capture_output=True, text=True, timeout=10, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
