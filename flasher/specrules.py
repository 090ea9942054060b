"""Rules across the fields of a cluster file: roles and seed, image, stacks, time zone.

Each rule yields every violation it finds and is silent where the schema has spoken already.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from flasher.schema import Violation, did_you_mean
from flasher.specview import View

DEFAULT_IMAGE = "hypriotos-1.12.3"
DEFAULT_PROFILE = "hypriotos"
DEFAULT_TIMEZONE = "UTC"
MOST_MANAGERS = 7
_URL_SCHEMES = ("http://", "https://")
_SUFFIXES = (".img", ".zip", ".xz", ".gz", ".bz2", ".zst")


@dataclass(frozen=True)
class Names:
    """What may be named in a cluster file, for the rules and their suggestions."""

    images: Collection[str]
    profiles: Collection[str]
    stacks: Collection[str]
    timezones: Collection[str]


def check_names(view: View, names: Names) -> Iterator[Violation]:
    """Check that the image, its profile, the stacks and the time zone exist."""
    image = view.text("image")
    if image is not None:
        words = _image_problem(image, names.images)
        if words:
            yield Violation(("image",), words)
    profile = view.text("image", "profile")
    if profile is not None and profile not in names.profiles:
        message = f"no profile is called {profile!r}{did_you_mean(profile, names.profiles)}"
        yield Violation(("image", "profile"), message)
    for stack in view.mapping("stacks"):
        if stack not in names.stacks:
            message = f"no stack is called {stack!r}{did_you_mean(stack, names.stacks)}"
            yield Violation(("stacks", stack), message, on_key=True)
    zone = view.text("timezone")
    # Without a tz database (Windows) nothing is known and nothing is refused.
    if zone is not None and names.timezones and zone not in names.timezones:
        message = f"no time zone is called {zone!r}{did_you_mean(zone, names.timezones)}"
        yield Violation(("timezone",), message)


def is_path_or_url(image: str) -> bool:
    """Tell whether an image's text names a file or an address, and not an id of the catalogue."""
    return "/" in image or "\\" in image or image.lower().endswith(_SUFFIXES)


def _image_problem(image: str, known: Collection[str]) -> str:
    if "://" in image:
        good = image.startswith(_URL_SCHEMES) and len(image.split("://", 1)[1]) > 1
        return "" if good else "must be an address that starts with http:// or https://"
    if is_path_or_url(image) or image in known:
        return ""
    near = did_you_mean(image, known)
    return f"no image of the catalogue is called {image!r}{near} (a file needs a '/': ./{image})"


# --- roles --------------------------------------------------------------------------------------


def check_managers(view: View) -> Iterator[Violation]:
    """Check that there is an odd number of managers, one to seven.

    Raft needs a majority: an even number survives no more losses than one manager fewer does
    (Docker's "Raft consensus in swarm mode").
    """
    roles = [view.text("nodes", node, "role") for node in view.nodes]
    if not roles or None in roles:
        return
    count = roles.count("manager")
    if count == 0:
        message = "there is no manager: give one node role: manager"
    elif count > MOST_MANAGERS:
        message = f"{count} managers are too many: each slows the others down; make it 7 or fewer"
    elif count == 2:
        message = (
            "2 managers are worse than one: the swarm loses its quorum when either of them "
            "fails; make it 1 or 3"
        )
    elif count % 2 == 0:
        message = (
            f"{count} managers survive the loss of {count // 2 - 1}, as {count - 1} do, and there "
            f"is one more to fail: make it {count - 1} or {count + 1}"
        )
    else:
        return
    yield Violation(("nodes",), message, on_key=True)


def seed_claims(view: View) -> list[tuple[tuple[str, ...], str]]:
    """Give the places that name the seed and whom they name, the top-level key first."""
    named = view.text("seed")
    claims: list[tuple[tuple[str, ...], str]] = [] if named is None else [(("seed",), named)]
    claims += [
        (("nodes", node, "seed"), node) for node in view.nodes if view.flag("nodes", node, "seed")
    ]
    return claims


def seed_of(view: View) -> str | None:
    """Give the name of the seed: the one named, else the first manager that may be it."""
    claims = seed_claims(view)
    if claims:
        return claims[0][1]
    for node in view.nodes:
        refused = view.flag("nodes", node, "seed") is False
        if view.text("nodes", node, "role") == "manager" and not refused:
            return node
    return None


def check_seed(view: View) -> Iterator[Violation]:
    """Check that exactly one node is the seed, that it exists and is a manager."""
    claims = seed_claims(view)
    first = claims[0][1] if claims else None
    for path, node in claims:
        role = view.text("nodes", node, "role")
        if node not in view.nodes:
            if view.nodes:
                message = f"no node is called {node!r}{did_you_mean(node, view.nodes)}"
                yield Violation(path, message)
        elif node != first:
            yield Violation(path, f"only one node can be the seed, and {first} is it already")
        elif role is not None and role != "manager":
            yield Violation(path, f"the seed must be a manager, but {node} is a {role}")
    if first is not None and view.flag("nodes", first, "seed") is False:
        yield Violation(("nodes", first, "seed"), f"{first} is named as the seed at the top level")
    roles = [view.text("nodes", node, "role") for node in view.nodes]
    if first is None and "manager" in roles and None not in roles and seed_of(view) is None:
        yield Violation(("nodes",), "no manager is left to be the seed", on_key=True)
