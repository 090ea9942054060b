"""What root makes for somebody behind sudo is theirs; in root's own directories it is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flasher import ownership
from flasher.claim import claim
from flasher.errors import DownloadError
from flasher.model import ImageFile
from flasher.workspace import Workspace
from tests.support import loopdev
from tests.support.downloads import DATA, NAME, Home, assert_right
from tests.support.fileserver import Manner, serve
from tests.support.identity import NOW, spec
from tests.support.tools import need_root

USER, GROUP = 4242, 4243

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def _behind_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    need_root()
    monkeypatch.setenv("SUDO_UID", str(USER))
    monkeypatch.setenv("SUDO_GID", str(GROUP))
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    made = tmp_path / "home"
    made.mkdir()
    os.chown(made, USER, GROUP)
    return made


def owners(directory: Path) -> set[tuple[int, int]]:
    """Whose everything below a directory is; there must be something."""
    found = [path.lstat() for path in directory.rglob("*")]
    assert found
    return {(info.st_uid, info.st_gid) for info in found}


def test_card_file_is_the_users(tmp_path: Path) -> None:
    image = loopdev.make_image(tmp_path, loopdev.image_bytes(4 << 20))
    card = tmp_path / "pi1.img"
    with claim(loopdev.make_plan(ImageFile(card, None), image)) as claimed:
        claimed.keep()
    info = card.stat()
    assert (info.st_uid, info.st_gid) == (USER, GROUP)
    assert info.st_mode & 0o777 == 0o600


@pytest.mark.parametrize("cut", [(), (1_000_000, *(0,) * 9)], ids=["complete", "cut off"])
def test_cache_in_the_users_home_is_the_users(cut: tuple[int, ...], theirs: Path) -> None:
    home = Home(theirs / ".cache" / "piflash" / "images", theirs)
    with serve({}) as server:
        server.put(NAME, DATA, Manner(cut=cut))
        if cut:
            with pytest.raises(DownloadError):
                home.resolve(server.url(NAME))
            assert [path.stat().st_size for path in home.cache.glob("*.part")] == [1_000_000]
            assert len(list(home.cache.glob("*.part.json"))) == 1
        else:
            assert_right(home.resolve(server.url(NAME)))
    assert owners(theirs) == {(USER, GROUP)}


def test_cache_elsewhere_stays_roots(tmp_path: Path) -> None:
    home = Home(tmp_path / "var" / "cache", tmp_path)
    with serve({NAME: DATA}) as server:
        assert_right(home.resolve(server.url(NAME)))
    assert owners(tmp_path) == {(0, 0)}


def test_link_in_place_of_a_download_gives_nothing_away(theirs: Path) -> None:
    home = Home(theirs / "images", theirs)
    victim = theirs.parent / "shadow"
    victim.write_text("root's")
    with serve({}) as server:
        server.put(NAME, DATA, Manner(cut=(1_000_000, *(0,) * 9)))
        with pytest.raises(DownloadError):
            home.resolve(server.url(NAME))
        part = home.part()
        part.unlink()
        part.symlink_to(victim)
        with pytest.raises(DownloadError):
            home.resolve(server.url(NAME))
    assert victim.read_text() == "root's"
    assert victim.stat().st_uid == 0
    ownership.give(part)
    assert victim.stat().st_uid == 0


def test_workspace_is_the_users(theirs: Path) -> None:
    made = Workspace.open(theirs / ".piflash", cluster="home")
    made.mint(spec(), "pi1", rebuild=False, now=NOW)
    made.secret("minio")
    assert owners(theirs) == {(USER, GROUP)}
