"""What is rendered for each shape of node: parsed again, and held against the image's facts."""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from flasher import profile, render
from flasher.errors import ImageError, SeedError
from flasher.model import ClusterSpec, NodeSpec, Secret, User, Wifi
from tests.support import specs
from tests.support.specs import FLASHED_AT, LAN, PROFILE, SHAPES, TEMPLATES, WIFI

FORBIDDEN = ("apt", "packages", "package_update", "package_upgrade", "power_state", "network")

each_shape = pytest.mark.parametrize("spec", SHAPES.values(), ids=SHAPES)


def config(spec: ClusterSpec, node: NodeSpec | None = None) -> dict[str, Any]:
    return render.cloud_config(
        spec, node or spec.nodes[0], profile=PROFILE, templates=TEMPLATES, flashed_at=FLASHED_AT
    )


def network(spec: ClusterSpec) -> Any:
    text = render.network_config(spec, spec.nodes[0], profile=PROFILE, templates=TEMPLATES)
    return yaml.safe_load(text)


def files(spec: ClusterSpec) -> dict[str, dict[str, str]]:
    return {file["path"]: file for file in config(spec)["write_files"]}


def commands(spec: ClusterSpec, key: str) -> str:
    return "\n".join(c if isinstance(c, str) else " ".join(c) for c in config(spec)[key])


# --- user-data ----------------------------------------------------------------------------------


@each_shape
def test_user_data_is_ascii_with_the_header_and_reads_back(spec: ClusterSpec) -> None:
    data = config(spec)
    text = render.user_data(data)
    assert text.startswith("#cloud-config\n")
    assert text.isascii()
    assert "\r" not in text
    assert text.endswith("\n")
    assert yaml.safe_load(text) == data


@each_shape
def test_user_data_has_nothing_that_breaks_the_image(spec: ClusterSpec) -> None:
    data = config(spec)
    assert not set(FORBIDDEN) & set(data)
    assert set(data) <= PROFILE.cloud_init.keys


@each_shape
def test_host_name_and_login_are_the_specs(spec: ClusterSpec) -> None:
    data = config(spec)
    assert data["hostname"] == spec.nodes[0].name
    assert data["manage_etc_hosts"] is True
    assert data["timezone"] == spec.timezone
    assert data["ssh_pwauth"] is False
    (user,) = data["users"]
    assert not {"ssh_pwauth", "chpasswd"} & set(user)
    assert user["name"] == spec.user.name
    assert "docker" in user["groups"]
    assert user.get("ssh_authorized_keys", []) == list(spec.user.ssh_authorized_keys)
    password = spec.user.password_hash
    assert user["lock_passwd"] is (password is None)
    assert user.get("passwd") == (password.reveal() if password else None)


@each_shape
def test_files_have_only_what_cloud_init_18_3_knows(spec: ClusterSpec) -> None:
    for file in config(spec)["write_files"]:
        assert set(file) <= {"path", "content", "owner", "permissions", "encoding"}
        assert file["owner"] == "root:root"
        assert re.fullmatch("0[0-7]{3}", file["permissions"])
        assert file["path"].startswith("/")
        assert file["content"].endswith("\n")


@each_shape
def test_clock_is_set_forward_before_anything_else(spec: ClusterSpec) -> None:
    first = config(spec)["bootcmd"][0]
    assert f"-lt {FLASHED_AT} ]" in first
    assert f"date -u -s @{FLASHED_AT}" in first


@each_shape
def test_docker_rotates_its_logs(spec: ClusterSpec) -> None:
    daemon = json.loads(files(spec)["/etc/docker/daemon.json"]["content"])
    assert daemon["log-driver"] == "json-file"
    assert daemon["log-opts"] == {"max-size": "1m", "max-file": "2"}


@pytest.mark.parametrize("seccomp", ["allow-all", "default"])
def test_seccomp_profile_is_there_exactly_when_named(seccomp: str) -> None:
    written = files(specs.cluster(seccomp=seccomp))
    named = json.loads(written["/etc/docker/daemon.json"]["content"]).get("seccomp-profile")
    if seccomp == "default":
        assert named is None
        assert not [path for path in written if "seccomp" in path]
    else:
        assert json.loads(written[named]["content"]) == {"defaultAction": "SCMP_ACT_ALLOW"}


def test_service_cannot_make_an_ordering_cycle_and_always_restarts() -> None:
    unit = files(SHAPES["dhcp"])["/etc/systemd/system/piflash.service"]["content"]
    assert "After=docker.service network-online.target\n" in unit
    assert "cloud-final" not in unit
    assert "Restart=always\n" in unit
    assert "WantedBy=multi-user.target\n" in unit
    assert "/usr/local/lib/piflash/firstboot.pyz run --boot /boot\n" in unit


def test_cloud_init_waits_for_the_boot_partition_at_later_boots() -> None:
    path = "/etc/systemd/system/cloud-init-local.service.d/piflash.conf"
    assert "After=boot.mount\n" in files(SHAPES["dhcp"])[path]["content"]


@each_shape
def test_service_is_installed_enabled_and_started_without_blocking(spec: ClusterSpec) -> None:
    script = commands(spec, "runcmd")
    steps = (
        "cp /boot/piflash/firstboot.pyz",
        "mv -f /usr/local/lib/piflash/firstboot.pyz.new",
        "systemctl enable piflash.service",
        "touch /var/lib/cloud/instance/piflash-done",
        "systemctl --no-block start piflash.service",
    )
    places = [script.index(step) for step in steps]
    assert places == sorted(places)


# --- Wi-Fi --------------------------------------------------------------------------------------


@each_shape
def test_wifi_files_are_there_exactly_for_wifi_nodes(spec: ClusterSpec) -> None:
    wifi = spec.nodes[0].wifi
    written = files(spec)
    for path in ("/etc/network/interfaces.d/wlan0", "/etc/wpa_supplicant/wpa_supplicant.conf"):
        assert (path in written) is (wifi is not None)
    assert ("ifup wlan0" in commands(spec, "runcmd")) is (wifi is not None)
    if wifi:
        conf = written["/etc/wpa_supplicant/wpa_supplicant.conf"]
        assert conf["permissions"] == "0600"
        assert f"country={wifi.country}\n" in conf["content"]
        assert wifi.psk.reveal() not in conf["content"]


@pytest.mark.parametrize(
    ("ssid", "passphrase", "key"),
    [
        # IEEE 802.11i-2004, H.4.3: test vectors of the passphrase mapping.
        ("IEEE", "password", "f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e"),
        (
            "ThisIsASSID",
            "ThisIsAPassword",
            "0dc0d6eb90555ed6419756b9a15ec3e3209b63df707dd508d14581f8982721af",
        ),
        ("any", "AB" * 32, "ab" * 32),
    ],
)
def test_wifi_key_is_that_of_the_standard(ssid: str, passphrase: str, key: str) -> None:
    assert render.wifi_key(Wifi(ssid, Secret(passphrase), "DE")) == key


@given(ssid=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8))
@settings(max_examples=20, deadline=None)
def test_any_network_name_stays_one_line(ssid: str) -> None:
    spec = specs.cluster(specs.node(wifi=Wifi(ssid, Secret("a" * 64), "DE")))
    content = files(spec)["/etc/wpa_supplicant/wpa_supplicant.conf"]["content"]
    (value,) = re.findall(r"(?m)^    ssid=([0-9a-f]+)$", content)
    assert bytes.fromhex(value).decode() == ssid


# --- network-config -----------------------------------------------------------------------------

DHCP: Any = {"type": "dhcp"}
CLUSTER: Any = {
    "type": "physical",
    "name": "eth0:1",
    "subnets": [{"type": "static", "address": "198.18.42.11/24"}],
}
STATIC: Any = {
    "type": "static",
    "address": LAN.address,
    "gateway": LAN.gateway,
    "dns_nameservers": list(LAN.dns),
}


@pytest.mark.parametrize(
    ("shape", "subnet", "cluster_address"),
    [
        ("dhcp", DHCP, True),
        ("static", STATIC, True),
        ("static without gateway", {"type": "static", "address": "10.0.0.5/8"}, True),
        ("cable and wifi", DHCP, True),
        ("wifi", {**DHCP, "control": "manual"}, False),
        ("wifi static", {**DHCP, "control": "manual"}, False),
    ],
)
def test_network_config_is_version_1_and_not_wrapped(
    shape: str, subnet: Any, cluster_address: bool
) -> None:
    eth0 = {"type": "physical", "name": "eth0", "subnets": [subnet]}
    expected = {"version": 1, "config": [eth0, CLUSTER] if cluster_address else [eth0]}
    assert network(SHAPES[shape]) == expected


def test_network_config_is_wrapped_where_the_profile_says_so() -> None:
    spec = SHAPES["dhcp"]
    wrapped = replace(PROFILE, network_wrapped=True)
    text = render.network_config(spec, spec.nodes[0], profile=wrapped, templates=TEMPLATES)
    assert yaml.safe_load(text) == {"network": network(spec)}


@each_shape
def test_cluster_address_is_on_exactly_one_interface(spec: ClusterSpec) -> None:
    node = spec.nodes[0]
    address = f"{node.cluster_address}/{ipaddress.ip_network(spec.cluster_subnet).prefixlen}"
    written = files(spec)
    wlan = written.get("/etc/network/interfaces.d/wlan0", {}).get("content", "")
    eth = written["/etc/network/interfaces.d/50-cloud-init.cfg"]["content"]
    assert (address in eth, address in wlan) == (node.ethernet, not node.ethernet)


def test_wifi_only_node_never_waits_for_a_cable() -> None:
    spec = SHAPES["wifi"]
    eth = files(spec)["/etc/network/interfaces.d/50-cloud-init.cfg"]["content"]
    assert "auto eth0" not in eth
    assert "eth0" not in commands(spec, "runcmd")


def test_prefix_is_that_of_the_cluster_subnet() -> None:
    spec = specs.cluster(cluster_subnet="198.18.0.0/16")
    assert render.cluster_address(spec, spec.nodes[0]) == "198.18.42.11/16"


# --- meta-data ----------------------------------------------------------------------------------


def test_meta_data_has_the_hyphenated_key() -> None:
    spec = SHAPES["dhcp"]
    text = render.meta_data(
        spec, spec.nodes[0], profile=PROFILE, templates=TEMPLATES, instance_id="0123"
    )
    assert yaml.safe_load(text) == {"instance-id": "0123", "local-hostname": "pi1"}


# --- cmdline.txt --------------------------------------------------------------------------------

LINE = b"console=tty1 root=PARTUUID=x-02 cgroup_enable=memory swapaccount=1 quiet init=/i.sh\n"


@pytest.mark.parametrize("line", [LINE, LINE.strip(), LINE.replace(b"\n", b"\r\n")])
def test_command_line_with_all_it_needs_stays_byte_for_byte(line: bytes) -> None:
    assert render.cmdline(line, profile=PROFILE) == line


def test_missing_words_are_appended_to_the_one_line() -> None:
    line = render.cmdline(b"a=1 cgroup_enable=cpuset init=/i.sh\n", profile=PROFILE)
    assert line == b"a=1 cgroup_enable=cpuset init=/i.sh cgroup_enable=memory swapaccount=1\n"
    assert render.cmdline(line, profile=PROFILE) == line


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("rootfstype=ext4", "rootfstype=ext4 rootflags=nodelalloc"),
        ("rootfstype=ext4 rootflags=noload", "rootfstype=ext4 rootflags=noload,nodelalloc"),
        ("rootfstype=ext4 rootflags=a,nodelalloc", "rootfstype=ext4 rootflags=a,nodelalloc"),
        ("rootfstype=btrfs", "rootfstype=btrfs"),
        ("rootwait", "rootwait"),
    ],
)
def test_root_of_ext4_is_mounted_without_delayed_allocation(flags: str, expected: str) -> None:
    need = "cgroup_enable=memory swapaccount=1"
    line = render.cmdline(f"{need} {flags}\n".encode(), profile=PROFILE)
    assert line == f"{need} {expected}\n".encode()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", "not one line"),
        (b"a\nb\n", "not one line"),
        (b"a\xff\n", "not one line"),
        (b"quiet ds=nocloud;s=/x\n", "ds=nocloud"),
        (b"network-config=disabled quiet\n", "network-config=disabled"),
    ],
)
def test_refuses_command_line_that_cannot_work(line: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=re.escape(words)):
        render.cmdline(line, profile=PROFILE)


# --- quoting ------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
scalars = st.none() | st.booleans() | st.integers() | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
)


@given(value=values)
@settings(max_examples=60, deadline=None)
def test_any_value_survives_the_yaml_filter(value: Any) -> None:
    text = render.inline(value)
    assert text.isascii()
    assert "\n" not in text
    assert yaml.safe_load(f"x: {text}\ny: [{text}, 1]\n") == {"x": value, "y": [value, 1]}


def test_yaml_filter_refuses_what_it_cannot_write() -> None:
    with pytest.raises(SeedError, match="object"):
        render.inline(object())


@given(data=st.dictionaries(texts, values, max_size=4))
@settings(max_examples=50, deadline=None)
def test_any_cloud_config_reads_back_and_is_ascii(data: dict[str, Any]) -> None:
    text = render.user_data(data)
    assert text.isascii()
    assert yaml.safe_load(text) == data


@given(zone=texts, name=texts, keys=st.lists(texts, max_size=2), password=st.none() | texts)
@settings(max_examples=20, deadline=None)
def test_no_text_of_the_user_breaks_out_of_its_value(
    zone: str, name: str, keys: list[str], password: str | None
) -> None:
    user = User(name, tuple(keys), Secret(password) if password else None)
    plain = config(specs.cluster())
    data = config(specs.cluster(timezone=zone, user=user))
    assert data["timezone"] == zone
    assert data["users"][0]["name"] == name
    assert data["users"][0].get("ssh_authorized_keys", []) == keys
    assert data["users"][0].get("passwd") == (password or None)
    for key in ("bootcmd", "runcmd", "write_files"):
        assert data[key] == plain[key]


def test_text_blocks_stay_readable() -> None:
    assert "  content: |\n    [Unit]\n" in render.user_data(config(SHAPES["dhcp"]))


# --- templates ----------------------------------------------------------------------------------


def test_missing_template_is_named() -> None:
    spec = SHAPES["dhcp"]
    templates = {name: text for name, text in TEMPLATES.items() if name != "daemon.json.j2"}
    with pytest.raises(SeedError, match=r"daemon\.json\.j2"):
        render.cloud_config(spec, spec.nodes[0], profile=PROFILE, templates=templates, flashed_at=0)


def test_undefined_value_in_a_template_is_an_error() -> None:
    with pytest.raises(SeedError, match="greeting"):
        render.files({"a.j2": b"{{ settings.greeting }}"}, values={"settings": {}})


def test_stack_templates_are_rendered_and_other_files_kept() -> None:
    source = {"stack.yml.j2": b"d: {{ domain }}\n", "b.bin": b"\x00{{\xff"}
    assert render.files(source, values={"domain": "x"}) == {
        "stack.yml": b"d: x\n",
        "b.bin": b"\x00{{\xff",
    }


# --- the profile --------------------------------------------------------------------------------


def profile_text(**changes: Any) -> str:
    path = specs.resources.data_dir("cloud-init") / "profiles" / "hypriotos.json"
    return json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes})


def test_profile_names_the_files_that_it_edits() -> None:
    assert PROFILE.edited_boot_files == ("cmdline.txt",)
    assert PROFILE.cloud_init.version == "18.3"
    assert {rule.template for rule in PROFILE.files} <= set(TEMPLATES)
    assert set(PROFILE.seed.values()) <= set(TEMPLATES)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("{}", "missing key 'network'"),
        (profile_text(boot={"mount": "/boot"}), "unit"),
        (profile_text(login={"groups": [], "shell": "", "sudo": "", "x": 1}), "'x'"),
        (profile_text(files=[{"path": "/a", "template": "b", "when": "moon"}]), "'moon'"),
    ],
)
def test_refuses_profile_with_a_mistake(text: str, words: str) -> None:
    with pytest.raises(SeedError, match=re.escape(words)):
        profile.parse(text, file="x.json")


def test_profile_without_package_sources_is_rendered() -> None:
    spec = specs.cluster(specs.node(wifi=WIFI))
    data = render.cloud_config(
        spec,
        spec.nodes[0],
        profile=replace(PROFILE, sources=None),
        templates=TEMPLATES,
        flashed_at=0,
    )
    assert "sed" not in str(data["runcmd"])
