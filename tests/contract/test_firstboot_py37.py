"""The Pi's service as it is shipped: packed, and run by the Pi's own Python, 3.7."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from firstboot.importer import import_card
from firstboot.layout import Layout
from flasher import pyz, resources
from tests.support.crash import Announce, run_and_kill
from tests.support.tools import need
from tests.unit.firstboot.card import config, insert

SECONDS = 60.0


def python37() -> list[str]:
    """Give the command of a Python 3.7 that runs: pyenv's shims are on PATH even if they do not."""
    need("python3.7")
    found = {"PYENV_VERSION": pyenv_37()} if pyenv_37() else {}
    return ["env", *(f"{name}={value}" for name, value in found.items()), "python3.7"]


def pyenv_37() -> str:
    if shutil.which("pyenv") is None:
        return ""
    listed = subprocess.run(
        ["pyenv", "versions", "--bare"], capture_output=True, text=True, check=True, timeout=30
    ).stdout.split()
    return next((name for name in listed if name.startswith("3.7.")), "")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = resources.firstboot_dir()
    files = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.py")}
    path = tmp_path_factory.mktemp("pyz") / "firstboot.pyz"
    path.write_bytes(pyz.pack(files))
    return path


@pytest.fixture(params=["3.7", "this"])
def python(request: pytest.FixtureRequest) -> list[str]:
    return python37() if request.param == "3.7" else [sys.executable]


def below(layout: Layout) -> list[str]:
    return ["--boot", layout.boot, "--root", layout.root]


def wait_for(path: Path, text: str) -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if path.exists() and text in path.read_text():
            return
        time.sleep(0.02)
    raise AssertionError(f"{path} never said {text!r}")


def test_the_python_of_the_pi_is_the_one_that_is_tested() -> None:
    done = subprocess.run(
        [*python37(), "-c", "import sys; print(sys.version_info[:2])"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stdout == "(3, 7)\n"


def test_the_service_imports_tells_and_stops_when_it_is_asked_to(
    tmp_path: Path, packed: Path, python: list[str]
) -> None:
    layout = insert(tmp_path)
    with subprocess.Popen(
        [*python, "-W", "error", str(packed), "run", *below(layout)],
        stderr=subprocess.PIPE,
        text=True,
    ) as service:
        wait_for(Path(layout.status_txt), "phase:      DOCKER")
        service.send_signal(signal.SIGTERM)
        _, told = service.communicate(timeout=SECONDS)
    assert service.returncode == 0
    first, last = told.splitlines()
    assert first.startswith("piflash: DOCKER: ")
    assert last == "piflash: stopping: asked to"
    assert not Path(layout.card_identity).exists()
    assert {"identity", "node.json"} <= set(os.listdir(layout.state))


VERIFY = """
import sys
sys.path.insert(0, sys.argv[1])
from firstboot import permit
text = open(sys.argv[2]).read()
try:
    granted = permit.verify(text, modulus=sys.argv[3], cluster="home", node="pi1")
except permit.PermitError as error:
    print(error)
else:
    print(granted.kind, granted.epoch)
"""


@pytest.mark.parametrize(("forged", "said"), [(False, "genesis 1"), (True, "not that of this")])
def test_the_pis_python_judges_a_permit(
    tmp_path: Path, packed: Path, python: list[str], forged: bool, said: str
) -> None:
    layout = insert(tmp_path)
    path = Path(layout.card_identity) / "permit.json"
    signature = path.read_text().split('"')[-2]
    if forged:
        path.write_text(path.read_text().replace(signature[:8], "00000000"))
    done = subprocess.run(
        [*python, "-c", VERIFY, str(packed), str(path), config().permit_key],
        capture_output=True,
        text=True,
        check=True,
        timeout=SECONDS,
    )
    assert said in done.stdout


def test_import_alone(tmp_path: Path, packed: Path, python: list[str]) -> None:
    layout = insert(tmp_path, "pi9")
    done = subprocess.run(
        [*python, str(packed), "import", *below(layout)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert (done.returncode, done.stderr) == (0, "piflash: import: pi9, generation 1\n")
    assert sorted(os.listdir(layout.identity)) == ["ca.pem", "node.key", "node.pem"]


def test_the_packages_syntax_and_library_are_those_of_37() -> None:
    vermin = Path(sys.executable).parent / "vermin"
    if not vermin.exists():
        need("vermin")
    done = subprocess.run(
        [
            str(vermin) if vermin.exists() else "vermin",
            "-q",
            "-t=3.7-",
            "--violations",
            "--no-tips",
            "--eval-annotations",
            str(resources.firstboot_dir()),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def read_all(directory: str) -> dict[str, str]:
    return {path.name: path.read_text() for path in Path(directory).iterdir()}


def importing(layout: Layout, announce: Announce) -> None:
    announce(import_card(layout).config.name)


def test_a_power_cut_at_any_step_of_the_import_loses_nothing_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    template = insert(tmp_path / "template")
    whole = read_all(template.card_identity)
    points = 0
    while True:
        layout = Layout(boot=str(tmp_path / "c" / "boot"), root=str(tmp_path / "c" / "root"))
        shutil.copytree(template.boot, layout.boot)
        Path(layout.root).mkdir()
        run = run_and_kill(partial(importing, layout), at=points)
        if Path(layout.identity).exists():
            assert read_all(layout.identity) == whole, f"half an identity, cut at {points}"
        else:
            assert read_all(layout.card_identity) == whole, f"scrubbed too early, cut at {points}"
        card = import_card(layout)
        assert (card.config, card.left) == (config(), ())
        assert read_all(layout.identity) == whole, f"cut at {points}"
        assert not Path(layout.card_identity).exists()
        assert sorted(os.listdir(layout.state)) == ["identity", "memory", "node.json"], (
            f"cut at {points}"
        )
        shutil.rmtree(tmp_path / "c")
        if not run.killed:
            break
        points += 1
    assert points > 100, f"only {points} places to cut: the hook sees too little"


def test_the_order_of_syncs_survives_a_power_cut(tmp_path: Path) -> None:
    """What a cut would undo must be on disk before what relies on it: copy, rename, scrub."""
    layout = insert(tmp_path)
    calls: list[str] = []

    def watch(_frame: object, event: str, called: object) -> None:
        name = getattr(called, "__name__", "")
        if event == "c_call" and name in ("fsync", "rename", "replace", "unlink", "rmdir"):
            calls.append(name)

    sys.setprofile(watch)
    try:
        import_card(layout)
    finally:
        sys.setprofile(None)
    assert calls == [
        *("fsync",),  # the state directory's own entry
        *("fsync", "replace", "fsync"),  # node.json
        *(("fsync",) * 5),  # five files of the identity
        *("fsync",),  # their directory
        *("fsync", "replace", "fsync"),  # a memory: from now on a missing one is a lost one
        *("rename", "fsync"),  # the identity's name, the entry of that name
        *("fsync", "unlink") * 5,  # the scrub: zeros on disk before the name goes
        *("fsync", "rmdir", "fsync"),
    ]
