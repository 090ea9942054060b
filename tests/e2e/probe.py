"""Runs in the guest, as root, under its own Python: tells everything about it as one JSON object.

Python 3.7, standard library and what cloud-init brings; it is sent as text and judges nothing.
"""

import calendar
import glob
import grp
import hashlib
import json
import os
import pwd
import re
import stat
import subprocess
import sys
import time

import yaml  # cloud-init's own

PIFLASH = "/var/lib/piflash"
# What a boot may change without anybody minding.
VOLATILE = re.compile(
    r"/etc/(adjtime|mtab|resolv\.conf|fake-hwclock\.data|\.updated)$"
    r"|/etc/ssl/certs/java|/etc/systemd/system/.*\.wants/cloud-init|\.pyc$"
)


def run(*argv):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
    return done.stdout.decode("utf-8", "replace")


def read(path):
    try:
        with open(path, "rb") as file:
            return file.read().decode("utf-8", "replace")
    except OSError as error:
        return "!" + str(error.strerror)


def tree(*tops):
    """Path -> mode, owner, group and content's hash or link target, of files below the tops."""
    found = {}
    for top in tops:
        for directory, folders, names in os.walk(top):
            for name in [*names, *folders]:
                path = os.path.join(directory, name)
                if not VOLATILE.search(path):
                    found[path] = entry(path)
    return found


def entry(path):
    info = os.lstat(path)
    if stat.S_ISLNK(info.st_mode):
        content = "-> " + os.readlink(path)
    elif stat.S_ISREG(info.st_mode):
        with open(path, "rb") as file:
            content = hashlib.sha256(file.read()).hexdigest()
    else:
        content = ""
    return [oct(stat.S_IMODE(info.st_mode)), info.st_uid, info.st_gid, content]


def users():
    shadow = dict(line.split(":")[:2] for line in read("/etc/shadow").splitlines())
    return {
        user.pw_name: {
            "groups": sorted(
                {g.gr_name for g in grp.getgrall() if user.pw_name in g.gr_mem}
                | {grp.getgrgid(user.pw_gid).gr_name}
            ),
            "shell": user.pw_shell,
            "home": user.pw_dir,
            "keys": read(user.pw_dir + "/.ssh/authorized_keys"),
            "password": shadow.get(user.pw_name, ""),
            "sudo": run("sudo", "-n", "-l", "-U", user.pw_name),
        }
        for user in pwd.getpwall()
        if 1000 <= user.pw_uid < 60000
    }


def unit(name):
    keys = (
        "ActiveState,SubState,NRestarts,MainPID,UnitFileState,Result,ActiveEnterTimestampMonotonic,"
        "ExecMainStartTimestamp,LoadState"
    )
    lines = run("systemctl", "show", name, "-p", keys).splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def started(name):
    """UTC seconds, by the guest's clock of that moment."""
    line = run("env", "TZ=UTC", "systemctl", "show", "-p", "ExecMainStartTimestamp", name)
    text = line.strip().split("=", 1)[1]
    return calendar.timegm(time.strptime(text, "%a %Y-%m-%d %H:%M:%S UTC"))


def journal(*matches):
    """This boot's entries of any of the matches.

    -m: those from before the machine-id was made anew count too.
    """
    boot = read("/proc/sys/kernel/random/boot_id").strip().replace("-", "")
    ours = [part for match in matches for part in ("+", "_BOOT_ID=" + boot, *match.split())]
    lines = run("journalctl", "-m", "--no-pager", "-o", "json", *ours[1:]).splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def addresses():
    found = []
    for link in json.loads(run("ip", "-j", "-4", "addr")):
        for item in link["addr_info"]:
            found.append([link["ifname"], item.get("label", ""), item["local"], item["prefixlen"]])
    return sorted(found)


def docker():
    info = json.loads(run("docker", "info", "--format", "{{json .}}").splitlines()[-1])
    daemons = {item["_PID"] for item in journal("_SYSTEMD_UNIT=docker.service _COMM=dockerd")}
    keys = ("LoggingDriver", "SecurityOptions", "CgroupVersion", "CgroupDriver", "ServerVersion")
    return {
        "info": {key: info.get(key) for key in keys},
        "warnings": info.get("Warnings") or [],
        "daemons": sorted(daemons),
        "started": started("docker.service"),
        "daemon_json": read("/etc/docker/daemon.json"),
        "daemon_json_written": os.stat("/etc/docker/daemon.json").st_mtime
        if os.path.exists("/etc/docker/daemon.json")
        else None,
    }


def cloud_init():
    bad = re.compile(r"\b(WARNING|ERROR|CRITICAL)\b|Traceback")
    # A shell's word on a runcmd that went wrong is all there is, if it is not the last one.
    broken = re.compile(
        r"^/var/lib/cloud/\S+: (line )?\d+: |^(cp|mv|mkdir|sed|touch): |No space left"
        r"|Failed to (enable|start)"
    )
    lines, counts = {}, {}
    for path in ("/var/log/cloud-init.log", "/var/log/cloud-init-output.log"):
        text = read(path).splitlines()
        counts[path] = len(text)
        lines[path] = [line for line in text if bad.search(line)]
    output = read("/var/log/cloud-init-output.log").splitlines()
    lines["runcmd"] = [line for line in output if broken.search(line)]
    status = subprocess.run(("cloud-init", "status"), stdout=subprocess.PIPE)
    return {
        "status": status.stdout.decode().strip(),
        "code": status.returncode,
        "result": json.loads(read("/run/cloud-init/result.json") or "null"),
        "complaints": lines,
        "log_lines": counts,
        "instance": read("/var/lib/cloud/data/instance-id").strip(),
        "instances": sorted(os.listdir("/var/lib/cloud/instances")),
        "modules_run": sorted(os.listdir("/var/lib/cloud/instance/sem")),
        "done": sorted(map(os.path.basename, glob.glob("/var/lib/cloud/instance/piflash-*"))),
    }


def network_config():
    """The top-level keys, as the guest's own YAML reader finds them."""
    return sorted(yaml.safe_load(read("/boot/network-config")))


def user_data():
    """The keys that FAT has left of it, and cloud-init's copies that hold more."""
    left = yaml.safe_load(read("/boot/user-data"))
    more = re.compile("write_files|ssh-ed25519|runcmd:|psk=")
    copies = tree("/var/lib/cloud/instances")
    return {
        "keys": sorted(left),
        "copies": sorted(path for path in copies if more.search(read(path))),
    }


def guarded(function, *arguments):
    try:
        return function(*arguments)
    except Exception as error:  # noqa: BLE001 - the rest of what is found counts all the same
        return {"failed": type(error).__name__ + ": " + str(error)}


def units():
    cycles = re.compile("ordering cycle|deleted to break", re.IGNORECASE)
    # The second kind: what systemd told the kernel before there was a journal.
    lines = journal("_PID=1", "SYSLOG_IDENTIFIER=systemd")
    told = [str(item.get("MESSAGE")) for item in lines]
    return {
        "told": len(told),
        "failed": run("systemctl", "--failed", "--plain", "--no-legend").split("\n")[:-1],
        "cycles": [line for line in told if cycles.search(line)],
        "jobs": run("systemctl", "list-jobs", "--no-legend").split("\n")[:-1],
        "piflash": unit("piflash.service"),
        "piflash_started": started("piflash.service"),
        "piflash_told": [
            str(item.get("MESSAGE")) for item in journal("_SYSTEMD_UNIT=piflash.service")
        ],
        "docker": unit("docker.service"),
        "ssh": unit("ssh.service"),
        "state": run("systemctl", "is-system-running").strip(),
    }


def disk():
    vfs = os.statvfs("/")
    mounts = [line.split() for line in read("/proc/mounts").splitlines()]
    return {
        "root_bytes": vfs.f_blocks * vfs.f_frsize,
        "boot": [m for m in mounts if m[1] == "/boot"],
        "root": [m for m in mounts if m[1] == "/"],
        "partitions": read("/proc/partitions"),
    }


def main():
    found = {
        "hostname": run("hostname").strip(),
        "etc_hostname": read("/etc/hostname").strip(),
        "hosts": read("/etc/hosts"),
        "own_name": run("getent", "hosts", run("hostname").strip()).split()[:1],
        "machine_id": read("/etc/machine-id").strip(),
        "users": guarded(users),
        "addresses": guarded(addresses),
        "routes": run("ip", "-4", "route", "show", "default").strip(),
        "resolv": read("/etc/resolv.conf"),
        "timezone": [
            read("/etc/timezone").strip(),
            os.path.realpath("/etc/localtime"),
            time.strftime("%z", time.localtime(1593561600)),
        ],
        "now": time.time(),
        "network_config": guarded(network_config),
        "user_data": guarded(user_data),
        "fake_hwclock": read("/boot/fake-hwclock.data").strip(),
        "units": guarded(units),
        "docker": guarded(docker),
        "cloud_init": guarded(cloud_init),
        "disk": guarded(disk),
        "status_txt": read("/boot/piflash/status.txt"),
        "boot": guarded(tree, "/boot"),
        "state": guarded(tree, PIFLASH),
        "pyz": [guarded(entry, path) for path in PYZ],
        "sources": read("/etc/apt/sources.list"),
        "files": guarded(tree, "/etc", "/home", "/root", "/usr/local"),
        "packages": hashlib.sha256(run("dpkg-query", "-W").encode()).hexdigest(),
        "kernel": os.uname().release,
        "python": run("python3", "--version").strip(),
        "versions": run("cloud-init", "--version").strip(),
        "uptime": float(read("/proc/uptime").split()[0]),
    }
    sys.stdout.write(json.dumps(found) + "\n")


PYZ = ("/boot/piflash/firstboot.pyz", "/usr/local/lib/piflash/firstboot.pyz")
main()
