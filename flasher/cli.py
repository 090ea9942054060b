"""The `piflash` command: arguments, dispatch, exit codes; decides nothing."""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Sequence
from pathlib import Path

from flasher import __version__
from flasher.commands import check, devices, fetch, flash, init, render
from flasher.commands.targets import OVERRIDABLE
from flasher.commands.ui import Ui
from flasher.errors import PiflashError, UsageError

COMMANDS = ("flash", "init", "check", "render", "devices", "fetch")
INTERRUPTED = 130

EPILOG = """\
`piflash --node pi1 /dev/sdX` is short for `piflash flash --node pi1 /dev/sdX`.

exit codes:
  0 done                        7 read back other bytes than written
  1 a bug of piflash            8 a tool is missing
  2 wrong usage                 9 .piflash/ is locked or damaged
  3 cluster file is wrong      10 download failed
  4 device refused             11 rendered seed is not valid
  5 base image is wrong        12 not confirmed, nothing written
  6 writing the card failed   130 interrupted
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError(f"{self.prog}: {message}", hint=f"see `{self.prog} --help`")


def build_parser() -> argparse.ArgumentParser:
    """Give the whole command line; every command's function is in its `run` default."""
    parser = _Parser(
        prog="piflash",
        description="Describe a Raspberry Pi Docker Swarm in one file and write its microSD cards.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"piflash {__version__}")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=_Parser
    )
    _add_flash(commands)
    _add_init(commands)
    _add_check(commands)
    _add_render(commands)
    _add_devices(commands)
    _add_fetch(commands)
    return parser


_Commands = argparse._SubParsersAction  # argparse names no public type for this


def _common(parser: argparse.ArgumentParser, *, json_help: str) -> None:
    parser.add_argument(
        "--cluster",
        metavar="FILE",
        type=Path,
        default=Path("cluster.yaml"),
        help="the cluster file (default: cluster.yaml)",
    )
    parser.add_argument("--json", action="store_true", help=json_help)


def _add_flash(commands: _Commands[_Parser]) -> None:
    parser = commands.add_parser(
        "flash",
        help="write a node's card (the main job)",
        description="Write one card per --node/TARGET pair; several pairs are written side by side "
        "from one decompression. The plan is shown and confirmed first.",
    )
    parser.add_argument(
        "--node",
        metavar="NAME",
        action="append",
        required=True,
        help="the node whose card to write; once per TARGET, in the same order",
    )
    parser.add_argument(
        "targets",
        metavar="TARGET",
        nargs="*",
        help="a card reader's device (/dev/sdX, see `piflash devices`) or a file ending in .img",
    )
    _common(parser, json_help="print the plan, or the results, as JSON on stdout")
    parser.add_argument(
        "--image",
        metavar="ID|FILE|URL",
        help="use this base image and not the cluster file's; FILE and URL may end in "
        "#sha256=<64 hex digits>",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask for the node's name")
    parser.add_argument("--dry-run", action="store_true", help="show the plan, write nothing")
    parser.add_argument(
        "--no-verify",
        dest="verify",
        action="store_false",
        help="do not read back and compare (a bad card is then found by the Pi)",
    )
    parser.add_argument(
        "--force",
        metavar="CODE",
        action="append",
        default=[],
        choices=sorted(OVERRIDABLE),
        help="override one refusal by its code: %(choices)s",
    )
    parser.add_argument(
        "--rebuild",
        action="store_true",
        help="the seed's card may found a new swarm (epoch + 1) in place of one that is lost",
    )
    parser.set_defaults(run=flash.run)


def _add_init(commands: _Commands[_Parser]) -> None:
    parser = commands.add_parser(
        "init",
        help="write a commented cluster.yaml to start from",
        description="Write a commented cluster.yaml of four nodes; an existing one is kept.",
    )
    parser.add_argument(
        "directory", metavar="DIR", nargs="?", type=Path, default=Path(), help="default: here"
    )
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    parser.set_defaults(run=init.run)


def _add_check(commands: _Commands[_Parser]) -> None:
    parser = commands.add_parser(
        "check",
        help="validate everything that can be known before flashing",
        description="Check the cluster file and what is rendered from it for every node; report "
        "all problems at once.",
    )
    _common(parser, json_help="print the report as JSON on stdout")
    parser.set_defaults(run=check.run)


def _add_render(commands: _Commands[_Parser]) -> None:
    parser = commands.add_parser(
        "render",
        help="write the exact files of a node's seed to a directory",
        description="Write the files that `piflash flash` puts on the boot partition. Same input "
        "and same generation give the same bytes. Mints nothing.",
    )
    parser.add_argument("--node", metavar="NAME", required=True, help="the node to render")
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=Path, required=True, help="a new or empty directory"
    )
    _common(parser, json_help="print the list of files as JSON on stdout")
    parser.add_argument(
        "--reveal-secrets",
        action="store_true",
        help="write keys, permits, password hashes and Wi-Fi keys in clear (masked otherwise)",
    )
    parser.set_defaults(run=render.run)


def _add_devices(commands: _Commands[_Parser]) -> None:
    parser = commands.add_parser(
        "devices",
        help="list what can be written, and why the rest can't",
        description="List block devices: which can be written, and why the others are refused.",
    )
    parser.add_argument("--json", action="store_true", help="print the list as JSON on stdout")
    parser.set_defaults(run=devices.run)


def _add_fetch(commands: _Commands[_Parser]) -> None:
    parser = commands.add_parser(
        "fetch",
        help="download and verify the base image, for flashing offline",
        description="Bring the base image into the cache and verify it; records its hash on first "
        "use, and refuses another one later.",
    )
    _common(parser, json_help="print what was fetched as JSON on stdout")
    parser.add_argument(
        "--image", metavar="ID|FILE|URL", help="this image and not the cluster file's"
    )
    parser.add_argument(
        "--repin",
        action="store_true",
        help="forget the recorded hash and trust what the server gives now",
    )
    parser.set_defaults(run=fetch.run)


def _with_command(argv: Sequence[str]) -> list[str]:
    # `piflash --node pi1 /dev/sdX` is the promised form: without a command, it is `flash`.
    words = list(argv)
    if words[:1] in (["-h"], ["--help"], ["--version"], []):
        return words or ["--help"]
    if words[0] in COMMANDS:
        return words
    if words[0].startswith("-") and "--node" not in words:
        command = next((word for word in words if word in COMMANDS), None)
        if command:
            words.remove(command)
            return [command, *words]
    return ["flash", *words] if words[0].startswith("-") or "--node" in words else words


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    words = _with_command(argv)
    # A subparser takes only the first run of TARGETs of `--node A X --node B Y`; the others are
    # left over, in their order.
    known, rest = build_parser().parse_known_args(words)
    if rest:
        extra = [word for word in rest if not word.startswith("-")]
        if len(extra) != len(rest) or not hasattr(known, "targets"):
            raise UsageError(
                f"piflash {words[0]}: not understood: {' '.join(rest)}",
                hint="a cluster file is named with --cluster FILE; see `piflash --help`",
            )
        known.targets = [*known.targets, *extra]
    return known


def run(argv: Sequence[str]) -> int:
    """Run the command line and give its exit code."""
    ui = Ui(as_json="--json" in argv, options=_repeated_options(argv))
    try:
        args = _parse(argv)
        code: int = args.run(args, ui)
        return code
    except PiflashError as error:
        ui.fail(error)
        return error.exit_code
    except KeyboardInterrupt:
        # While a card is written, Ctrl-C is the writer's to handle.
        ui.talk("piflash: interrupted; no card was being written")
        return INTERRUPTED
    except Exception:
        traceback.print_exc()
        ui.talk(f"piflash: error: a bug of piflash {__version__}; please report the lines above")
        return 1


def _repeated_options(argv: Sequence[str]) -> dict[str, str]:
    """Give the options that a remedy must repeat, or it would mean another file or image."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--cluster")
    parser.add_argument("--image")
    try:
        known = parser.parse_known_args(list(argv))[0]
    except SystemExit:
        return {}
    return {f"--{name}": value for name, value in vars(known).items() if value}
