"""Feeds seeds to whatever version of cloud-init is on the path, and prints as JSON what it does.

Runs under the Python of that cloud-init (3.7 and later) and without root. The stages and modules
are cloud-init's own; what is replaced here is the machine around them: programs are noted instead
of run, files go below a directory, and the users and groups are those of HypriotOS.
"""

from __future__ import annotations

import importlib
import io
import json
import logging
import os
import platform
import sys
import tempfile
from contextlib import redirect_stdout

from cloudinit import settings, ssh_util, stages, temp_utils, util

try:
    from cloudinit import dmi, subp
except ImportError:
    dmi = subp = util

# Those of them that set up what a cluster file describes, in HypriotOS's order.
MODULES = ("bootcmd", "write-files", "set_hostname", "users-groups", "timezone", "runcmd")
GROUPS = {"root", "users", "docker", "video", "input", "sudo", "adm", "netdev", "plugdev"}
CMDLINE = "console=tty1 root=PARTUUID=00000000-02 rootfstype=ext4 cgroup_enable=memory rootwait"


class Machine:
    """What is noted of one seed. `root` stands for the root file system."""

    def __init__(self, directory):
        self.directory = directory
        self.root = os.path.join(directory, "root")
        self.commands, self.keys, self.timezone = [], {}, None
        self.log, self.errors = [], []

    def under(self, path):
        path = os.path.abspath(path)
        return path if path.startswith(self.directory + "/") else self.root + path

    def ran(self, argv, data=None, **_options):
        argv = [argv] if isinstance(argv, str) else list(argv)
        if argv[0] == "/bin/sh" and os.path.isfile(argv[-1]):
            with open(argv[-1]) as script:
                argv[-1] = script.read()
        self.commands.append({"argv": argv, "input": data})
        return ("", "")


machine = Machine("/nowhere")


def said(error):
    return f"{type(error).__name__}: {error}"


class Noting(logging.Handler):
    """Notes everything from a warning upward, and the exceptions that cloud-init notes below it."""

    def emit(self, record):
        if record.exc_info:
            machine.errors.append(said(record.exc_info[1]))
        elif record.levelno >= logging.WARNING:
            machine.log.append(f"{record.levelname}: {record.getMessage()}")


def replace(name, function, *modules):
    for module in modules:
        # util.subp is a function up to 20.1, the module of that name afterwards.
        if callable(getattr(module, name, None)):
            setattr(module, name, function)


def below_root(name, module):
    """Make a function of cloud-init's take its first argument, a path, as one below the root."""
    if hasattr(module, name):
        original = getattr(module, name)
        changed = lambda path, *more, **named: original(machine.under(path), *more, **named)  # noqa: E731
        setattr(module, name, changed)


def append(path, *more, **named):
    """Append as root may: to a file that nobody may write to as well."""
    path = machine.under(path)
    mode = os.stat(path).st_mode & 0o7777
    os.chmod(path, mode | 0o200)
    append_file(path, *more, **named)
    os.chmod(path, mode)


append_file = util.append_file


def change_owner(path, user=None, group=None):
    """Fail as the real one does where somebody does not exist; nothing is changed."""
    if (user or "root") != "root" or (group or "root") not in GROUPS:
        raise OSError(f"Unknown user or group: {user}:{group}")


def surround():
    """Replace the machine that cloud-init would run on."""
    os.environ["DEBUG_PROC_CMDLINE"] = CMDLINE
    replace("subp", lambda *args, **options: machine.ran(*args, **options), subp, util)
    replace("which", lambda program, *_args, **_options: "/sbin/" + program, subp, util)
    for name in ("write_file", "ensure_dir", "del_file"):
        below_root(name, util)
    util.append_file = append
    replace("chownbyname", change_owner, util)
    real = (subp if hasattr(subp, "target_path") else util).target_path
    replace("target_path", lambda to, path=None: real(to or machine.root, path), subp, util)
    replace("get_tmp_ancestor", lambda *_args, **_options: tempfile.gettempdir(), temp_utils)
    # A Raspberry Pi has no DMI.
    replace("read_dmi_data", lambda *_args: None, dmi)
    replace("is_user", lambda _name: False, util)
    replace("is_group", lambda name: name in GROUPS, util)
    # No look at the host's own network and block devices.
    replace("find_devs_with", lambda *_args, **_options: [], util)
    ssh_util.setup_user_keys = lambda keys, name, **_options: machine.keys.update(
        {name: sorted(keys)}
    )


def distribution(cls):
    """Replace what Debian's class does to the system by other ways than util."""

    def set_timezone(_self, name):
        machine.timezone = name

    cls.set_timezone = set_timezone
    cls.ci_sudoers_fn = machine.root + "/etc/sudoers.d/90-cloud-init-users"
    cls.ensure_sudo_dir = lambda *_args: None
    cls.apply_network_config_names = lambda *_args: None


def fence():
    """Let nothing be written elsewhere and no program start (Python 3.8 and later can)."""
    changing = {"os.remove", "os.rename", "os.mkdir", "os.chmod", "os.chown", "os.symlink"}

    def judge(event, args):
        if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork"):
            raise RuntimeError(f"{event} {args!r}")
        path = args[1] if event == "os.symlink" else args[0] if args else None
        writes = event in changing or (
            event == "open" and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        )
        inside = (machine.directory + "/", "/dev/null")
        if writes and isinstance(path, str) and path[:1] == "/" and not path.startswith(inside):
            raise RuntimeError(f"{event} {path}")

    if hasattr(sys, "addaudithook"):
        sys.addaudithook(judge)


def settle(base):
    """Write the image's settings with paths of the directory; give the seed its place."""
    directory = machine.directory
    for name in ("tmp", "run", "root/etc/network", "cloud/seed/nocloud-net"):
        os.makedirs(os.path.join(directory, name))
    tempfile.tempdir = temp_utils._TMPDIR = os.path.join(directory, "tmp")
    # A file that is there is how cloud-init knows ifupdown.
    with open(os.path.join(machine.root, "etc/network/interfaces"), "w") as interfaces:
        interfaces.write("source /etc/network/interfaces.d/*\n")
    base = json.loads(json.dumps(base))
    base["system_info"]["paths"] = {
        "cloud_dir": os.path.join(directory, "cloud"),
        "run_dir": os.path.join(directory, "run"),
        "templates_dir": os.path.join(directory, "templates"),
    }
    base["def_log_file"] = ""
    # Devices are looked at only by label.
    base["datasource"] = {"NoCloud": {"fs_label": None}}
    path = os.path.join(directory, "cloud.cfg")
    with open(path, "w") as out:
        json.dump(base, out)
    stages.CLOUD_CONFIG = settings.CLOUD_CONFIG = path
    stages.RUN_CLOUD_CONFIG = os.path.join(directory, "no-runtime.cfg")
    seed = os.path.join(directory, "cloud", "seed", "nocloud-net")
    for name in os.listdir(os.path.join(directory, "boot")):
        os.symlink(os.path.join(directory, "boot", name), os.path.join(seed, name))


def stage(found):
    """Go through a first boot: source, network, user-data, modules. Gives what each comes to."""
    init = stages.Init()
    init.initialize()
    init.fetch(existing="check")
    found["source"] = type(init.datasource).__name__
    found["instance_id"] = init.instancify()
    init.update()
    distribution(type(init.distro))
    try:
        init.apply_network_config(bring_up=False)
    except Exception as error:  # noqa: BLE001 - whatever cloud-init does is the result
        found["network_error"] = said(error)
    found["network"] = tree(machine.root + "/etc/network/interfaces.d")
    init.consume_data(settings.PER_ALWAYS)
    modules = (stages if hasattr(stages, "Modules") else newer()).Modules(init)
    found["config"] = modules.cfg
    for name in MODULES:
        modules.run_single(name)
    with open(init.paths.get_ipath("cloud_config")) as taken:
        found["cloud_config"] = util.load_yaml(taken.read())
    script = os.path.join(init.paths.get_ipath("scripts"), "runcmd")
    if os.path.exists(script):
        with open(script) as text:
            found["runcmd"] = text.read()


def newer():
    """The module that has the runner of modules since 22.3."""
    return importlib.import_module("cloudinit.config.modules")


def tree(root):
    files = {}
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            with open(path, "rb") as content:
                data = content.read().decode("latin-1")
            files[path[len(root) :]] = {"mode": os.stat(path).st_mode & 0o7777, "content": data}
    return files


def take(directory, base):
    global machine
    machine = Machine(directory)
    found = {"error": None}
    settle(base)
    try:
        stage(found)
    except Exception as error:  # noqa: BLE001 - whatever cloud-init does is the result
        found["error"] = said(error)
    found.update(
        commands=machine.commands,
        keys=machine.keys,
        timezone=machine.timezone,
        log=machine.log,
        errors=machine.errors,
        files=tree(machine.root),
    )
    return found


def main():
    asked = json.load(sys.stdin)
    logging.getLogger().setLevel(logging.DEBUG)
    logging.getLogger().addHandler(Noting())
    surround()
    # Python finds it out with `uname -p` and remembers it.
    platform.processor()
    fence()
    with redirect_stdout(io.StringIO()):
        results = {directory: take(directory, asked["base"]) for directory in asked["seeds"]}
    sys.stdout.write(json.dumps(results))


if __name__ == "__main__":
    main()
