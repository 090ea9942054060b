"""What we render and refuse, held against the `schema` command of Debian trixie's cloud-init."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from flasher import cloudconfig, cloudschema, render
from flasher.cloudschema import CLOUD_CONFIG, NETWORK
from flasher.errors import ToolMissingError
from tests.support import cloud_init as installed
from tests.support import specs
from tests.support.cloud_init import CloudInit
from tests.support.cloudcases import Case, cases
from tests.support.specs import PROFILE, SHAPES, TEMPLATES


@pytest.fixture(scope="module")
def cloud_init() -> CloudInit:
    return installed.cloud_init("trixie")


@pytest.fixture(scope="module")
def official(cloud_init: CloudInit) -> cloudconfig.Schemas:
    return cloudschema.find(cache=Path("/nowhere"), explicit=cloud_init.schemas).schemas


# The command's own main, once for each file; a process for each would take half a second.
DRIVER = """
import contextlib, io, json, sys
from cloudinit.cmd.main import main

results = {}
for path in sys.argv[1:]:
    kind = "network-config" if path.endswith("network-config") else "cloud-config"
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            code = main(["cloud-init", "schema", "-c", path, "-t", kind, "--annotate"])
        except SystemExit as error:
            code = error.code
    results[path] = [code, out.getvalue()]
print(json.dumps(results))
"""


def judge(cloud_init: CloudInit, *paths: Path) -> dict[str, tuple[int | None, str]]:
    done = cloud_init.execute("-c", DRIVER, *map(str, paths))
    assert done.returncode == 0, done.stderr
    return {path: (code, output) for path, (code, output) in json.loads(done.stdout).items()}


def test_cloud_init_accepts_what_is_rendered_for_every_shape(
    cloud_init: CloudInit, official: cloudconfig.Schemas, tmp_path: Path
) -> None:
    paths = []
    for number, spec in enumerate(SHAPES.values()):
        built = specs.build(spec, schemas=official)
        for name in ("user-data", "network-config"):
            paths.append(tmp_path / f"{number}-{name}")
            paths[-1].write_bytes(built.files[name].content)
    results = judge(cloud_init, *paths)
    assert len(results) == 2 * len(SHAPES)
    for path, (code, output) in results.items():
        assert code in (0, None), output
        assert f"Valid schema {path}" in output
        assert "deprecat" not in output.lower()


def test_oracle_can_say_no(cloud_init: CloudInit, tmp_path: Path) -> None:
    built = specs.build(specs.cluster())
    user_data, network = tmp_path / "user-data", tmp_path / "network-config"
    text = specs.text(built, "user-data")
    user_data.write_text(text.replace("lock_passwd: true", "ssh_pwauth: true"))
    network.write_text(specs.text(built, "network-config").replace("version: 1", "version: 7"))
    results = judge(cloud_init, user_data, network)
    assert [code for code, _ in results.values()] == [1, 1]
    assert "ssh_pwauth" in results[str(user_data)][1]


@pytest.mark.parametrize("case", cases("*.yaml"), ids=lambda case: case.name)
def test_case_with_the_official_schema(case: Case, official: cloudconfig.Schemas) -> None:
    spec = specs.cluster()
    ours = render.cloud_config(
        spec, spec.nodes[0], profile=PROFILE, templates=TEMPLATES, flashed_at=0
    )
    merged = cloudconfig.merge(ours, [specs.extra(case.text)], profile=PROFILE)
    found = cloudconfig.check(merged, profile=PROFILE, schemas=official)
    case.compare(cloudconfig.ordered(found))


@pytest.mark.parametrize("name", ["accepted", "schema-types", "hypriot-shape"])
def test_command_agrees_on_the_case(name: str, cloud_init: CloudInit, tmp_path: Path) -> None:
    (case,) = cases(f"{name}.yaml")
    path = tmp_path / "user-data"
    path.write_text(case.text)
    done = cloud_init.run("schema", "-c", str(path), "--annotate")
    assert done.returncode == (0 if name == "accepted" else 1), done.stdout + done.stderr


# --- where the schemas come from ----------------------------------------------------------------

SCHEMAS: Mapping[str, bytes] = {
    CLOUD_CONFIG: json.dumps({"title": "config"}).encode(),
    NETWORK: json.dumps({"title": "network"}).encode(),
}
PINS = {name: hashlib.sha256(content).hexdigest() for name, content in SCHEMAS.items()}


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    root = tmp_path / "served"
    root.mkdir()
    handler = functools.partial(_Handler, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", root
        server.shutdown()


@pytest.fixture(autouse=True)
def no_named_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cloudschema.VARIABLE, raising=False)


def put(directory: Path, names: tuple[str, ...] = (CLOUD_CONFIG, NETWORK)) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        (directory / name).write_bytes(SCHEMAS[name])
    return directory


def find(tmp_path: Path, **changes: Any) -> cloudschema.Found:
    values = {
        "cache": tmp_path / "cache",
        "installed": tmp_path / "absent",
        "base": "http://127.0.0.1:9",
        "pins": PINS,
    }
    return cloudschema.find(**{**values, **changes})


def titles(found: cloudschema.Found) -> tuple[object, object]:
    config, network = found.schemas.cloud_config, found.schemas.network
    return (config and config["title"], network and network["title"])


def test_download_is_kept_in_the_cache(tmp_path: Path, served: tuple[str, Path]) -> None:
    put(served[1])
    found = find(tmp_path, base=served[0])
    assert (titles(found), found.warning) == (("config", "network"), "")
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [CLOUD_CONFIG, NETWORK]
    again = find(tmp_path)
    assert (titles(again), again.source) == (("config", "network"), str(tmp_path / "cache"))


@pytest.mark.parametrize("fault", ["refused", "404", "other content", "half of it"])
def test_download_that_fails_is_a_warning_and_leaves_nothing_wrong(
    fault: str, tmp_path: Path, served: tuple[str, Path]
) -> None:
    base, root = served
    if fault == "other content":
        put(root)
        (root / CLOUD_CONFIG).write_bytes(b"{}")
    elif fault == "half of it":
        put(root, (CLOUD_CONFIG,))
    found = find(tmp_path, base="http://127.0.0.1:9" if fault == "refused" else base)
    assert titles(found) == (None, None)
    assert "not checked against the official schema" in found.warning
    assert "piflash fetch" in found.warning
    for path in (tmp_path / "cache").glob("*"):
        assert path.read_bytes() == SCHEMAS[path.name]


def test_damaged_cache_is_not_used(tmp_path: Path, served: tuple[str, Path]) -> None:
    put(tmp_path / "cache")
    (tmp_path / "cache" / CLOUD_CONFIG).write_bytes(b'{"title": "changed"}')
    assert titles(find(tmp_path))[0] is None
    put(served[1])
    assert titles(find(tmp_path, base=served[0])) == ("config", "network")


def test_installed_schema_needs_no_download(tmp_path: Path) -> None:
    other = put(tmp_path / "installed", (CLOUD_CONFIG,))
    (other / CLOUD_CONFIG).write_bytes(b'{"title": "a distribution\'s"}')
    found = find(tmp_path, installed=other)
    assert titles(found) == ("a distribution's", None)
    assert "network-config not checked" in found.warning


def test_named_schema_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "cache")
    mine = tmp_path / "mine.json"
    mine.write_text('{"title": "mine"}')
    assert titles(find(tmp_path, explicit=mine)) == ("mine", None)
    monkeypatch.setenv(cloudschema.VARIABLE, str(put(tmp_path / "both")))
    assert titles(find(tmp_path)) == ("config", "network")


@pytest.mark.parametrize("content", [None, b"{", b"[]"])
def test_named_schema_that_cannot_be_read_is_an_error(
    content: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "mine.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ToolMissingError, match=r"mine\.json"):
        find(tmp_path, explicit=path)


def test_pins_are_those_of_the_tag(cloud_init: CloudInit) -> None:
    """The distribution patches the first; the network schema is the tag's own, byte for byte."""
    content = (cloud_init.schemas / NETWORK).read_bytes()
    assert hashlib.sha256(content).hexdigest() == cloudschema._PINS[NETWORK]
