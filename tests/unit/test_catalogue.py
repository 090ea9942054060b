"""The catalogue of images, the addresses in it and the checksums beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flasher import catalogue, checksum, container, weburl
from flasher.container import Kind
from flasher.errors import ImageError

SHIPPED = Path(__file__).parents[2] / "cloud-init" / "catalogue.json"
ONE, TWO = "ab" * 32, "cd" * 32
GOOD = {
    "url": "https://example.org/a.img.zip",
    "sha256_url": None,
    "sha256": ONE,
    "size": 1024,
    "profile": "hypriotos",
    "arch": "armhf",
    "boards": ["Raspberry Pi 3"],
    "description": "an image",
}


def text(**changes: object) -> str:
    return json.dumps({"version": 1, "images": {"one": {**GOOD, **changes}}})


def test_shipped_catalogue_has_hypriotos_as_it_was_published() -> None:
    known = catalogue.parse(SHIPPED.read_text())
    entry = known.images["hypriotos-1.12.3"]
    release = "https://github.com/hypriot/image-builder-rpi/releases/download/v1.12.3/"
    assert entry.url == release + "hypriotos-rpi-v1.12.3.img.zip"
    assert entry.sha256_url == entry.url + ".sha256"
    assert entry.size == 1300 << 20
    assert entry.sha256 is None
    assert (entry.profile, entry.arch) == ("hypriotos", "armhf")


def test_entries_keep_the_files_order() -> None:
    data = {"version": 1, "images": dict.fromkeys(("zulu", "alpha", "mike"), GOOD)}
    assert list(catalogue.parse(json.dumps(data)).images) == ["zulu", "alpha", "mike"]


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("{", "not JSON"),
        ("[]", "version"),
        ('{"version": 2, "images": {}}', "version"),
        ('{"version": 1, "images": {}}', "no images"),
        ('{"version": 1, "images": {"one": 3}}', "images.one"),
        (text(url="ftp://example.org/a"), "images.one.url"),
        (text(url=None), "images.one.url"),
        (text(sha256="AB" * 32), "images.one.sha256"),
        (text(sha256_url="a.sha256"), "images.one.sha256_url"),
        (text(size=-512), "images.one.size"),
        (text(size=True), "images.one.size"),
        (text(size=1000), "images.one.size"),
        (text(boards="all"), "images.one.boards"),
        (text(profile=""), "images.one.profile"),
        (text(shasum=ONE), "images.one.shasum"),
    ],
)
def test_damaged_catalogue_is_refused_with_its_place(broken: str, says: str) -> None:
    with pytest.raises(ImageError, match=r"mine\.json") as caught:
        catalogue.parse(broken, file="mine.json")
    assert says in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h/a.img", "https://h/a.img"),
        ("https://me:secret@h:81/a.img", "https://h:81/a.img"),
        ("https://me:se@cret@h/a.img", "https://h/a.img"),
        ("https://h/a.img?X-Amz-Signature=secret#secret", "https://h/a.img?..."),
        ("https://[secret", "https://..."),
    ],
)
def test_no_secret_of_an_address_is_shown(url: str, shown: str) -> None:
    assert weburl.shown(url) == shown


def test_who_logs_in_makes_no_difference_to_the_cache() -> None:
    plain = weburl.key("https://host/a.img?v=1")
    assert weburl.key("https://me:pw@HOST/a.img?v=1#x") == plain
    assert weburl.key("https://host/a.img?v=2") != plain


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://h/x/a.img.zip?d=1", "a.img.zip"),
        ("https://h/x/a%20b%2F..%2Fc.img", "c.img"),
        ("https://h/x/", "image"),
        ("https://h/x/..", "image"),
        ("https://h/.hidden", "hidden"),
        ("https://h/n%C3%A4h.img", "n_h.img"),
        ("https://h/" + "x" * 300 + ".img", "x" * 96 + ".img"),
    ],
)
def test_file_name_is_safe_anywhere(url: str, name: str) -> None:
    assert weburl.file_name(url) == name


@given(st.text())
def test_any_address_gives_a_plain_file_name(path: str) -> None:
    name = weburl.file_name("https://h/" + path)
    assert name == Path(name).name
    assert name not in ("", ".", "..")


def test_pins_carry_no_secret_and_do_not_mix() -> None:
    one, two = "https://me:pw@h/a.img?token=1", "https://me:pw@h/a.img?token=2"
    assert "pw" not in weburl.pin_name(one)
    assert "token" not in weburl.pin_name(one)
    assert weburl.pin_name(one) != weburl.pin_name(two)
    for same in ("hypriotos-1.12.3", "./a.img", "https://h/a.img"):
        assert weburl.pin_name(same) == same


def test_checksum_address_keeps_the_query() -> None:
    assert weburl.checksum_url("https://u@h/a.img?x=1#f") == "https://u@h/a.img.sha256?x=1"


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (f"{ONE}  a.img.zip\n", ONE),
        (f"{ONE} *a.img.zip\n", ONE),
        (f"{ONE.upper()}  a.img.zip\r\n", ONE),
        (f"{ONE}\n", ONE),
        (f"{ONE}  ./out/a.img.zip\n", ONE),
        (f"SHA256 (a.img.zip) = {ONE}\n", ONE),
        (f"{ONE}  renamed.zip\n", ONE),
        (f"\ufeff{ONE}  a.img.zip\r\n", ONE),
        (f"\ufeff{ONE}\n", ONE),
        (f"{ONE}\ta.img.zip", ONE),
        (f"{TWO} b.img.zip\n{ONE} \t*a.img.zip\n", ONE),
        (f"{TWO}  b.img.zip\n{ONE}  a.img.zip\n", ONE),
        (f"# all of them\n{ONE}  a.img.zip\n", ONE),
        (f"{TWO}  b.img.zip\n{ONE}  c.img.zip\n", None),
        (f"{ONE[:-1]}  a.img.zip\n", None),
        (f"{ONE}ab  a.img.zip\n", None),
        ("", None),
        ("<html>not found</html>", None),
    ],
)
def test_checksum_files_of_all_customs_are_read(lines: str, found: str | None) -> None:
    assert checksum.find(lines, name="a.img.zip") == found


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"PK\x03\x04", Kind.ZIP),
        (b"PK\x05\x06", Kind.ZIP),
        (b"\xfd7zXZ\x00\x00", Kind.XZ),
        (b"\x1f\x8b\x08", Kind.GZIP),
        (b"BZh9", Kind.BZIP2),
        (b"BZh0", Kind.RAW),
        (b"\x28\xb5\x2f\xfd", Kind.ZSTD),
        (b"\x50\x2a\x4d\x18", Kind.ZSTD),
        (b"\x5f\x2a\x4d\x18", Kind.ZSTD),
        (b"7z\xbc\xaf\x27\x1c", Kind.OTHER),
        (b"version https://git-lfs.github.com/spec/v1\n", Kind.OTHER),
        (b"\xef\xbb\xbf \n<!DOCTYPE html>\n<html>", Kind.HTML),
        (b"<?xml version='1.0'?>\n<html xmlns=''>", Kind.HTML),
        (b"<HTML>", Kind.HTML),
        (b"\xfa\x33\xc0<html>", Kind.RAW),
        (b"\0" * 512, Kind.RAW),
    ],
)
def test_kind_is_told_by_content(head: bytes, kind: Kind) -> None:
    assert container.sniff(head) is kind
