"""What the owner adds with cloud_config and Wi-Fi arrives in the booted guest."""

from __future__ import annotations

import hashlib

import pytest

from tests.e2e.cards import Stage
from tests.e2e.scenes import Story

# As the cluster file of cards.py has them.
PASSPHRASE = b"correct horse battery"
SSID = 'Käpt\'n "Blaubär"'.encode()


@pytest.mark.scene("dhcp")
def test_files_and_commands_of_the_owner(story: Story) -> None:
    assert story.notes["own"].splitlines() == [
        "Ahoi — welcome aboard",
        "644 root root",
        "600 root root",
        "755 root root",
        " 00 01 02 03 ff fe fd",
        "first",
        "second",
        "third after enabled",
        "fourth: pi2 helm",
    ]


@pytest.mark.scene("dhcp")
def test_commands_of_the_owner_run_once(story: Story) -> None:
    assert story.notes["own again"] == story.notes["own"]


@pytest.mark.scene("dhcp")
def test_second_user_has_its_login_and_no_more(story: Story) -> None:
    helm = story.first.found["users"]["helm"]
    assert helm["keys"].strip() == story.first.node.key
    assert "docker" not in helm["groups"]
    assert "not allowed to run sudo" in helm["sudo"]
    assert story.notes["helm"].startswith("helm pi2 ")
    assert "sudo: a password is required" in story.notes["helm"]
    assert "permission denied while trying to connect to the Docker" in story.notes["helm"]


@pytest.mark.scene("wifi")
def test_wifi_files_are_there_and_private(story: Story) -> None:
    stats, _, rest = story.notes["wifi"].partition("country=")
    assert stats.splitlines() == ["600 root root", "644 root root"]
    assert rest.startswith("DE\n")
    assert PASSPHRASE.decode() not in story.notes["wifi"]


@pytest.mark.scene("wifi")
def test_wifi_key_is_that_of_the_passphrase(story: Story) -> None:
    """wpa_supplicant.conf(5): PBKDF2 of the passphrase with the network's name as the salt."""
    key = hashlib.pbkdf2_hmac("sha1", PASSPHRASE, SSID, 4096, 32).hex()
    assert f"\n    psk={key}\n" in story.notes["wifi"]


@pytest.mark.scene("wifi")
def test_wifi_interface_is_known_to_ifupdown(story: Story) -> None:
    _, stanza, _ = story.notes["wifi"].split("---\n")
    assert "wpa-conf: /etc/wpa_supplicant/wpa_supplicant.conf" in stanza
    assert f"replace {story.first.node.cluster}/24 dev wlan0 label wlan0:1" in stanza
    assert "allow-hotplug wlan0\n" in stanza


@pytest.mark.scene("wifi")
def test_wpa_supplicant_reads_what_was_written(story: Story) -> None:
    *_, talk = story.notes["wifi"].split("---\n")
    assert SSID.hex(" ")[:20] in talk
    assert "key_mgmt: 0x2" in talk
    assert "Failed to read or parse configuration" not in talk


@pytest.mark.scene("wifi")
def test_node_without_cable_asks_nothing_of_the_wired_network(story: Story) -> None:
    assert story.notes["asked"] == []
    assert not [a for a in story.first.found["addresses"] if a[0] == "eth0"]


def test_command_that_yaml_reads_as_a_mapping_is_refused(stage: Stage) -> None:
    """On the Pi it would keep cloud-init from running any command, piflash's own among them."""
    text = (stage.directory / "cluster.yaml").read_text()
    refused = stage.directory / "refused.yaml"
    refused.write_text(text + "cloud_config:\n  runcmd:\n  - echo a: b\n")
    done = stage.piflash("check", "--cluster", str(refused))
    assert done.returncode == 3
    line = text.count("\n") + 3
    assert f"refused.yaml:{line}:5: cloud_config.runcmd[0]: is a mapping" in done.stderr


def test_packages_are_refused_with_the_reason(stage: Stage) -> None:
    text = (stage.directory / "cluster.yaml").read_text()
    refused = stage.directory / "refused.yaml"
    refused.write_text(text + "cloud_config: {packages: [htop]}\n")
    done = stage.piflash("check", "--cluster", str(refused))
    assert done.returncode == 3
    line = text.count("\n") + 1
    assert f"refused.yaml:{line}:16: cloud_config.packages: " in done.stderr
    assert "before the package sources are mended" in done.stderr
    assert "apt-get, install" in done.stderr
