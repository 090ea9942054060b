"""Brings the cluster directory and the packaged data together for the commands."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import platformdirs

from flasher import (
    catalogue,
    cloudconfig,
    cloudschema,
    profile,
    pyz,
    resources,
    spec,
    specrules,
    workspace,
)
from flasher.catalogue import Catalogue
from flasher.errors import ClusterFileError, UsageError
from flasher.model import ClusterSpec, ExtraConfig, ImageRef, NodeSpec, Problem
from flasher.profile import Profile
from flasher.workspace import Workspace

WORKSPACE = ".piflash"


def cache_dir() -> Path:
    """Give the directory for images and schemas; PIFLASH_CACHE overrides the platform's."""
    override = os.environ.get("PIFLASH_CACHE")
    return Path(override) if override else Path(platformdirs.user_cache_dir("piflash"))


@dataclass(frozen=True)
class Data:
    """What ships with piflash: read once, handed to the pure core as values."""

    catalogue: Catalogue
    profiles: Mapping[str, Profile]
    templates: Mapping[str, str]
    cluster_schema: Mapping[str, object]
    stacks: Mapping[str, Mapping[str, bytes]]

    @classmethod
    def load(cls) -> Data:
        """Read the packaged data."""
        root = resources.data_dir("cloud-init")
        return cls(
            catalogue=catalogue.parse((root / "catalogue.json").read_text(encoding="utf-8")),
            profiles={
                path.stem: profile.parse(path.read_text(encoding="utf-8"))
                for path in sorted((root / "profiles").glob("*.json"))
            },
            templates={
                path.name: path.read_text(encoding="utf-8")
                for path in sorted((root / "templates").glob("*.j2"))
            },
            cluster_schema=json.loads((root / "cluster.schema.json").read_text(encoding="utf-8")),
            stacks=_read_stacks(resources.data_dir("stacks")),
        )


def _read_stacks(root: Path) -> dict[str, dict[str, bytes]]:
    return {
        directory.name: {
            path.relative_to(directory).as_posix(): path.read_bytes()
            for path in sorted(directory.rglob("*"))
            if path.is_file() and path.name != "README.md"
        }
        for directory in sorted(root.iterdir())
        if directory.is_dir() and (directory / "stack.yml.j2").is_file()
    }


@dataclass(frozen=True)
class Project:
    """A parsed cluster file and what stands beside it."""

    file: Path
    spec: ClusterSpec
    data: Data

    @classmethod
    def load(cls, file: Path) -> Project:
        """Read and check the cluster file. ClusterFileError names every problem of it."""
        file = file / "cluster.yaml" if file.is_dir() else file
        data = Data.load()

        def judge(extra: ExtraConfig, target: spec.Target) -> tuple[Problem, ...]:
            profile = profile_of(target.image, data=data)
            return cloudconfig.judge(extra, target, profile=profile, schemas=_schemas().schemas)

        known = spec.Known(
            schema=data.cluster_schema,
            images=tuple(data.catalogue.images),
            profiles=tuple(data.profiles),
            stacks=tuple(data.stacks),
            read=lambda name: (file.parent / name).read_text(encoding="utf-8"),
            judge=judge,
        )
        return cls(file, spec.parse(_read(file), file=str(file), known=known), data)

    @property
    def directory(self) -> Path:
        """The directory of the cluster file, to which its relative paths belong."""
        return self.file.resolve().parent

    @property
    def is_new(self) -> bool:
        """Whether the cluster has no memory yet."""
        return not (self.directory / WORKSPACE).exists()

    @cached_property
    def workspace(self) -> Workspace:
        """The cluster's memory; made at its first use."""
        return workspace.Workspace.open(self.directory / WORKSPACE, cluster=self.spec.name)

    @cached_property
    def firstboot(self) -> bytes:
        """The Pi's service as one zipapp."""
        root = resources.firstboot_dir()
        return pyz.pack(
            {
                path.relative_to(root).as_posix(): path.read_bytes()
                for path in sorted(root.rglob("*.py"))
            }
        )

    @property
    def cloud_init_schemas(self) -> cloudschema.Found:
        """The official schemas of cloud-init, as far as they can be had."""
        return _schemas()

    def profile(self, ref: ImageRef) -> Profile:
        """Give the profile of a base image: the catalogue's, or the one that the file names."""
        return profile_of(ref, data=self.data)

    def node(self, name: str) -> NodeSpec:
        """Give the node of that name. UsageError with the names that there are."""
        try:
            return self.spec.node(name)
        except KeyError:
            names = ", ".join(node.name for node in self.spec.nodes)
            raise UsageError(
                f"--node {name}: there is no such node in {self.file}", hint=f"its nodes: {names}"
            ) from None


def profile_of(ref: ImageRef, *, data: Data) -> Profile:
    """Give the profile that a base image is named with, or that the catalogue has for it."""
    entry = data.catalogue.images.get(ref.text)
    return data.profiles[ref.profile or (entry.profile if entry else specrules.DEFAULT_PROFILE)]


def _schemas() -> cloudschema.Found:
    return _find_schemas(cache_dir() / "schemas", os.environ.get(cloudschema.VARIABLE))


@functools.lru_cache(maxsize=4)
def _find_schemas(cache: Path, _named: str | None) -> cloudschema.Found:
    # Once a run: without a network each search waits for a time-out.
    return cloudschema.find(cache=cache)


def image_ref(text: str) -> ImageRef:
    """Read --image: an id, a path or a URL, optionally with `#sha256=<hex>` behind it."""
    base, mark, digest = text.partition("#sha256=")
    if not base:
        raise UsageError("--image: is empty", hint="name a catalogue id, a file or a URL")
    if mark and not (len(digest) == 64 and set(digest.lower()) <= set("0123456789abcdef")):
        raise UsageError(
            f"--image {text}: {digest!r} is not 64 hex digits", hint="take it from `sha256sum FILE`"
        )
    return ImageRef(base, sha256=digest.lower() or None)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ClusterFileError(
            f"{file}: there is no such cluster file",
            hint="make one with `piflash init`, or name yours with --cluster FILE",
        ) from None
    except UnicodeDecodeError as error:
        raise ClusterFileError(
            f"{file}: byte {error.start} is not UTF-8", hint="save the file as UTF-8"
        ) from None
    except OSError as error:
        raise ClusterFileError(
            f"{file}: cannot be read: {error.strerror}", hint=f"ls -l {file}"
        ) from None
