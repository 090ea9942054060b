"""Seeds that `piflash render` makes of cluster files, taken by cloud-init of several versions.

HypriotOS has 18.3. Debian bullseye's 20.4.1 is the oldest that can be had from where Debian's
packages come from; a source tree of 18.3 can be named in PIFLASH_TEST_CLOUD_INIT.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from flasher import cli
from tests.contract.cloud_init.controls import CONTROLS, Seed
from tests.contract.cloud_init.shapes import SHAPES, Shape
from tests.support import cloud_init
from tests.support.cloud_init import CloudInit

DRIVER = Path(__file__).parent / "cloud_init" / "take.py"
BASE = Path(__file__).parents[1] / "e2e" / "base" / "cloud.cfg"
DOCUMENT = Path(__file__).parents[2] / "docs" / "hypriotos.md"
SEED = ("user-data", "meta-data", "network-config")
Found = Mapping[str, Any]


# Debian's, and the user's own source tree if one is named.
PROGRAMS = [
    "bullseye",
    "trixie",
    *(pytest.param(tree, id=Path(tree).name) for tree in cloud_init.trees()),
]


# --- rendering and taking -----------------------------------------------------------------------


def render(shape: Shape, directory: Path) -> Seed:
    """Give the seed that the command makes of the shape's first node."""
    directory.mkdir()
    extra = "cloud_config: extra.yaml\n" if shape.extra else ""
    (directory / "extra.yaml").write_bytes(shape.extra)
    text = f"{shape.head}nodes:\n  pi1: {shape.node}\n{extra}"
    (directory / "cluster.yaml").write_bytes(text.encode())
    argv = ["render", "--cluster", str(directory / "cluster.yaml"), "--node", "pi1"]
    assert cli.run([*argv, "-o", str(directory / "seed"), "--reveal-secrets"]) == 0, text
    return {name: (directory / "seed" / name).read_bytes() for name in SEED}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Seed]]:
    root = tmp_path_factory.mktemp("rendered")
    (root / "home").mkdir()
    # Whether the official schema accepts them is another test's.
    (root / "schema.json").write_text('{"title": "accepts everything"}')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(root / "home"))
        patch.setenv("PIFLASH_CACHE", str(root / "cache"))
        patch.setenv("PIFLASH_CLOUD_INIT_SCHEMA", str(root / "schema.json"))
        yield {name: render(shape, root / name) for name, shape in SHAPES.items()}


def take(
    program: CloudInit, seeds: Mapping[str, Mapping[str, bytes]], root: Path
) -> dict[str, Any]:
    """Feed every seed to cloud-init, all in one process: name -> what came of it."""
    for name, files in seeds.items():
        (root / name / "boot").mkdir(parents=True)
        for path, content in files.items():
            (root / name / "boot" / path).write_bytes(content)
    asked = {
        "seeds": [str(root / name) for name in seeds],
        "base": yaml.safe_load(BASE.read_text()),
    }
    done = program.execute(str(DRIVER), stdin=json.dumps(asked))
    assert done.returncode == 0, done.stderr
    return {Path(path).name: found for path, found in json.loads(done.stdout).items()}


@pytest.fixture(scope="module", params=PROGRAMS)
def program(request: pytest.FixtureRequest) -> CloudInit:
    if request.param in cloud_init.trees():
        return cloud_init.from_tree(request.param)
    return cloud_init.cloud_init(request.param)


@pytest.fixture(scope="module")
def taken(
    program: CloudInit,
    rendered: Mapping[str, Seed],
    tmp_path_factory: pytest.TempPathFactory,
) -> Mapping[str, Found]:
    return take(program, rendered, tmp_path_factory.mktemp("taken"))


# --- what must come out -------------------------------------------------------------------------

shapes = pytest.mark.parametrize("name", SHAPES)


def commands(found: Found, *programs: str) -> list[list[str]]:
    return [ran["argv"] for ran in found["commands"] if ran["argv"][0] in programs]


def major(program: CloudInit) -> int:
    return int(program.version.split(".")[0])


def uncommented(text: str) -> str:
    return re.sub(r"(?m)^#.*\n", "", text)


def test_versions_are_those_that_the_documentation_names() -> None:
    assert cloud_init.cloud_init("bullseye").version == "20.4.1"
    assert cloud_init.cloud_init("trixie").version == "25.1.4"


@shapes
def test_seed_is_taken_without_a_warning(
    name: str, taken: Mapping[str, Found], rendered: Mapping[str, Seed]
) -> None:
    found = taken[name]
    assert (found["error"], found.get("network_error")) == (None, None)
    assert (found["log"], found["errors"]) == ([], [])
    assert found["source"] == "DataSourceNoCloudNet"
    assert found["instance_id"] == yaml.safe_load(rendered[name]["meta-data"])["instance-id"]
    assert found["instance_id"].startswith("home-pi1-g1-")
    config = yaml.safe_load(rendered[name]["user-data"])
    assert found["cloud_config"] == config
    assert found["config"].items() >= config.items()


@shapes
def test_host_has_its_name_and_time_zone(name: str, taken: Mapping[str, Found]) -> None:
    assert commands(taken[name], "hostname") == [["hostname", "pi1"]]
    assert taken[name]["files"]["/etc/hostname"]["content"] == "pi1\n"
    assert taken[name]["timezone"] == SHAPES[name].timezone


@shapes
def test_users_are_those_of_the_cluster_file(
    name: str, program: CloudInit, taken: Mapping[str, Found]
) -> None:
    found, shape = taken[name], SHAPES[name]
    made = commands(found, "useradd", "groupadd", "passwd", "chpasswd", "usermod")
    if major(program) >= 25:
        # It also unlocks whoever has a password.
        made = [argv for argv in made if argv[:2] != ["passwd", "-u"]]
    assert made == list(shape.users)
    assert found["keys"] == shape.keys
    sudoers = found["files"]["/etc/sudoers.d/90-cloud-init-users"]
    rules = [line for line in uncommented(sudoers["content"]).splitlines() if line]
    assert rules == shape.sudo.splitlines()


@shapes
def test_files_are_there_byte_for_byte(
    name: str, taken: Mapping[str, Found], rendered: Mapping[str, Seed]
) -> None:
    files = taken[name]["files"]
    for path, want in SHAPES[name].files.items():
        there = files.get(path)
        assert (there and (there["mode"], there["content"].encode("latin-1"))) == want, path
    config = yaml.safe_load(rendered[name]["user-data"])
    assert {file["path"] for file in config["write_files"]} <= set(files)


@shapes
def test_network_is_rendered_to_the_text_that_is_written_too(
    name: str, program: CloudInit, taken: Mapping[str, Found]
) -> None:
    """Up to 18.3 they are one file; after it the renderer's lies beside the one of write_files."""
    old = major(program) < 20
    (rendered_as,) = taken[name]["network"]
    assert rendered_as == ("/50-cloud-init.cfg" if old else "/50-cloud-init")
    assert uncommented(taken[name]["network"][rendered_as]["content"]) == SHAPES[name].network
    ours = taken[name]["files"]["/etc/network/interfaces.d/50-cloud-init.cfg"]
    assert (ours["mode"], ours["content"]) == (0o644, SHAPES[name].network)


@shapes
def test_runcmd_is_a_script_of_every_item_in_order(
    name: str, taken: Mapping[str, Found], rendered: Mapping[str, Seed]
) -> None:
    script = taken[name]["runcmd"]
    ours = "'systemctl' '--no-block' 'start' 'piflash.service'\n"
    assert script.endswith(ours + SHAPES[name].runcmd)
    rest = script.removeprefix("#!/bin/sh\n")
    for item in yaml.safe_load(rendered[name]["user-data"])["runcmd"]:
        if isinstance(item, str):
            assert rest.startswith(f"{item}\n")
            rest = rest.removeprefix(f"{item}\n")
        else:
            line, _, rest = rest.partition("\n")
            assert shlex.split(line) == [str(word) for word in item]
    assert rest == ""


@shapes
def test_bootcmd_runs_before_anything_else(
    name: str, taken: Mapping[str, Found], rendered: Mapping[str, Seed]
) -> None:
    items = yaml.safe_load(rendered[name]["user-data"])["bootcmd"]
    first, *_ = commands(taken[name], "/bin/sh", "hostname", "useradd")
    assert first == ["/bin/sh", "#!/bin/sh\n" + "".join(f"{item}\n" for item in items)]


# --- the controls: what is wrong is seen --------------------------------------------------------


def verdict(found: Found, good: Found) -> str:
    """Say in a few words what became of a seed, compared with the good one."""
    if found["error"]:
        return "no data source" if "DataSourceNotFound" in found["error"] else found["error"]
    said = []
    if found["instance_id"] != good["instance_id"]:
        said.append(f"instance-id `{found['instance_id']}`")
    if found.get("network_error"):
        said.append(f"no network: {found['network_error'].split(':')[0]}")
    elif (on := interfaces(found)) != interfaces(good):
        said.append(", ".join(on))
    if not found.get("cloud_config"):
        said.append("user-data ignored")
    else:
        if "/etc/x" in found["files"]:
            said.append(f"file holds `{found['files']['/etc/x']['content']}`")
        wanted = {file["path"] for file in found["cloud_config"]["write_files"]}
        if not wanted <= set(found["files"]):
            said.append("files missing")
    return (", ".join(said) or "taken") + (" (warning)" if found["log"] else "")


def interfaces(found: Found) -> list[str]:
    (file,) = found["network"].values()
    return re.findall(r"(?m)^iface (eth0 \w+|wlan0 \w+)", file["content"].replace("inet ", ""))


@pytest.fixture(scope="module")
def spoiled(
    program: CloudInit,
    rendered: Mapping[str, Seed],
    tmp_path_factory: pytest.TempPathFactory,
) -> Mapping[str, Found]:
    seeds = {f"{n}": change(rendered["static"]) for n, (change, *_) in enumerate(CONTROLS.values())}
    found = take(program, seeds, tmp_path_factory.mktemp("spoiled"))
    return dict(zip(CONTROLS, found.values(), strict=True))


@pytest.mark.parametrize("wrong", CONTROLS)
def test_what_is_wrong_with_a_seed_is_seen(
    wrong: str, program: CloudInit, spoiled: Mapping[str, Found]
) -> None:
    _, *verdicts = CONTROLS[wrong]
    column = {18: 0, 20: 1, 25: 2}.get(major(program))
    if column is not None:
        assert verdict(spoiled[wrong], spoiled["nothing"]) == verdicts[column]


def test_documentation_has_the_table_of_differences() -> None:
    rows = {
        cells[0]: cells[1:]
        for line in DOCUMENT.read_text(encoding="utf-8").splitlines()
        if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 4
    }
    for wrong, (_, *verdicts) in CONTROLS.items():
        assert rows[wrong] == verdicts, wrong
