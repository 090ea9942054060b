"""A node with nothing but join service and client, under any Python from 3.7.

Arguments: directory of an imported card, the address to serve on, limits. Commands are lines of
JSON on stdin, [method of Node, arguments]; each is answered by a line. Logs go to stderr.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time

from firstboot import bounds, files, nodeconfig, peers, server, tls, wire
from firstboot.layout import Layout
from firstboot.model import Hello, Token


class Node:
    def __init__(self, directory: str, address: str, limits: str) -> None:
        layout = Layout(boot=directory + "/boot", root=directory + "/root")
        text = files.read(layout.node_json, limit=nodeconfig.MAX_BYTES) or b""
        config = nodeconfig.parse(text.decode())
        self.woken = 0
        self.peers = peers.Peers(
            config, tls.client_context(layout.identity), log=log, wake=self.wake
        )
        self.server = server.Server(
            tls.server_context(layout.identity),
            cluster=config.cluster,
            log=log,
            wake=self.wake,
            heard=self.peers.heard,
            address=address,
            limits=bounds.Limits(**json.loads(limits)),
        )
        self.server.start()
        self.peers.start()

    def wake(self) -> None:
        self.woken += 1

    def publish(self, hello: dict, you: dict) -> None:
        said = Hello(**hello)
        known = {name: (node_id, 0.0) for name, node_id in you.items()}
        self.server.publish(said, you=known)
        self.peers.follow(said, you=known)

    def asks(self) -> list:
        return [dataclasses.asdict(ask) for ask in self.server.asks()]

    def answer(self, number: int, reply: dict) -> bool:
        token = Token(reply.pop("token")) if reply.get("token") else None
        return self.server.answer(number, wire.Reply(token=token, **reply))

    def contacts(self) -> dict:
        return {name: dataclasses.asdict(one) for name, one in self.peers.contacts().items()}

    def ask_join(self, name: str) -> dict:
        return self._told(self.peers.ask_join(name))

    def report_joined(self, name: str, node_id: str) -> dict:
        return self._told(self.peers.report_joined(name, node_id))

    def _told(self, outcome: object) -> dict:
        shown = {"shown": repr(outcome), **outcome.__dict__}
        if shown["grant"]:
            grant = shown["grant"].__dict__
            shown["grant"] = {**grant, "token": grant["token"].reveal()}
        return shown

    def memory(self) -> dict:
        with open("/proc/self/status", encoding="ascii") as status:
            lines = dict(line.split(":", 1) for line in status)
        return {key: int(lines[key].split()[0]) for key in ("VmRSS", "VmHWM", "Threads")}

    def cpu(self) -> float:
        return time.process_time()

    def wakes(self) -> int:
        return self.woken

    def quit(self) -> None:
        self.server.close()
        self.peers.close()


def log(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def say(result: object) -> None:
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


def main() -> None:
    node = Node(*sys.argv[1:])
    say(os.getpid())
    for line in sys.stdin:
        name, arguments = json.loads(line)
        say(getattr(node, name)(**arguments))
        if name == "quit":
            return


if __name__ == "__main__":
    main()
