"""One node from power on to power off: what node.py, peers.py and server.py do, without a machine.

It decides nothing: firstboot's own functions do, through `Core`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from firstboot.bounds import LIMITS
from firstboot.model import (
    Action,
    Answer,
    Ask,
    AskJoin,
    Clock,
    Contact,
    Decision,
    Engine,
    Entry,
    Grant,
    Hello,
    Notes,
    Observation,
    ReportJoined,
    Swarm,
)
from firstboot.peers import JOIN_PATIENCE
from firstboot.rhythm import FORMING, LEADING
from firstboot.wire import Reply
from tests.sim.cards import Card
from tests.sim.fakeswarm import DockerError
from tests.sim.hellos import Hellos, Line

if TYPE_CHECKING:
    from tests.sim.world import Box, World

LOOK = 10.0
AFTER_FAILURE = 1.0
TURN = 0.02  # a look at dockerd takes that long
COMMAND = 0.05
STEP = 60.0
TICK = 900.0
BUSY = Reply("later", "this node is busy")


class Shell(Hellos):
    """A running node. Its clock `now` is monotonic and starts at each boot."""

    def __init__(self, world: World, box: Box, card: Card, t: float) -> None:
        self.world, self.box, self.card, self.core = world, box, card, world.core
        self.config = card.config
        self.zero = t - 5.0
        self.begun = self.now(t)
        self.notes = Notes()
        self.dead = False
        self.busy: Action | None = None
        self.wake_at = -1.0
        self.decision = Decision("IMPORT", "")
        self.stepped: float | None = None
        self.from_peer = False
        self.answers = (False, self.begun)
        self.state = ("", 0.0)
        self.last_engine: tuple[tuple[object, ...], Engine] | None = None
        self.down: dict[str, float] = {}
        self.contacts: dict[str, Contact] = {}
        self.lines = {p.name: Line(p) for p in self.config.roster if p.name != self.config.name}
        self.mood = FORMING
        self.snapshot: tuple[Hello, dict[str, str], float] | None = None
        self.asks: dict[int, tuple[Ask, Callable[[Reply], None]]] = {}
        self.rpc = 0
        self.newest: dict[str, int] = {}  # of the managers that were heard, for the judge
        self.heard_epoch = 0
        self.sleep(t, 0.0)
        for line in self.lines.values():
            self.plan(line, t)

    # --- the loop ---------------------------------------------------------------------------------

    def sleep(self, t: float, seconds: float) -> None:
        self.wake_at = t + max(seconds, TURN)
        self.world.at(self.wake_at, self._alarm, self.wake_at)

    def wake(self, t: float) -> None:
        """What the bell does: the next turn comes at once."""
        if self.busy is None and self.wake_at > t + TURN:
            self.sleep(t, 0.0)

    def _alarm(self, t: float, meant: float) -> None:
        if not self.dead and self.busy is None and self.wake_at == meant:
            self.turn(t)

    def turn(self, t: float) -> None:
        world = self.world
        world.turns += 1
        now = t - self.zero
        seen = self.observe(t, now)
        decision = self.core.decide(self.config, self.card.permit, seen, now)
        if world.trace is not None:
            world.trace(t, self, decision)
        self.decision = decision
        self.publish(seen, decision, t)
        self._keep_tick(seen.clock)
        action = decision.action
        if action is None:
            self.sleep(t, min(decision.wait, LOOK))
            return
        self.busy = action
        world.happened.add(f"does {type(action).__name__}")
        world.judge.before(self, action, seen, t)
        if world.strike(self, action, t):
            return
        self._begin(action, seen, t)

    def finish(self, t: float, action: Action, outcome: Any, ask: Ask | None = None) -> None:
        """An action is over: what came of it goes into the notes."""
        if self.dead or self.busy is not action:
            return
        self.busy = None
        self.notes = self.core.after(self.notes, action, outcome, now=self.now(t), ask=ask)
        self.sleep(t, AFTER_FAILURE if outcome.failure else 0.0)

    # --- observe ----------------------------------------------------------------------------------

    def floor(self, certified: float) -> float:
        return max(float(self.config.flashed_at), self.card.tick, certified)

    def observe(self, t: float, now: float) -> Observation:
        engine = self._engine(t, now)
        return Observation(
            clock=self._clock(t, engine.certified if engine else 0.0),
            begun=self.begun,
            address_up=self.box.address_up,
            engine=engine,
            engine_since=self.answers[1],
            swarm=self._swarm(t, now) if engine and engine.manager else None,
            peers=self.contacts,
            memory=self.card.memory,
            notes=self.notes,
            asks=tuple(ask for ask, _ in self.asks.values()) if self.asks else (),
        )

    def _clock(self, t: float, certified: float) -> Clock:
        wall, floor = self.wall(t), self.floor(certified)
        if self.box.ntp:
            return Clock(wall, "ntp", floor)
        if wall < floor:
            return Clock(wall, "none", floor)
        return Clock(wall, "peer" if self.from_peer else "floor", floor)

    def _engine(self, t: float, now: float) -> Engine | None:
        docker = self.card.engine
        self.world.fabric.advance(t)
        if self.answers[0] != docker.running:
            self.answers = (docker.running, now)
        if not docker.running:
            return None
        papers = docker.papers if docker.state != "pending" else None
        if self.state[0] != docker.said:
            self.state = (docker.said, now)
        started = max(self.answers[1], self.notes.restarted or 0.0)
        stale = self.stepped is not None and self.stepped > started
        key = (self.state, docker.error, stale, papers and (papers.node_id, papers.role))
        certified = (papers.root.digest, papers.begins) if papers else ("", 0.0)
        if self.last_engine is None or self.last_engine[0] != (key, certified):
            engine = Engine(
                state=docker.said,
                since=self.state[1],
                node_id=papers.node_id if papers else "",
                manager=bool(papers) and docker.said == "active" and docker.manager,
                error=docker.error,
                ca=certified[0],
                certified=certified[1],
                stale_clock=stale,
            )
            self.last_engine = ((key, certified), engine)
        return self.last_engine[1]

    def _swarm(self, t: float, now: float) -> Swarm | None:
        swarm = self.world.fabric.view(self.card.engine, t)
        if swarm is None:
            self.down = {}
            return None
        down = [entry.id for entry in swarm.entries if not entry.ready]
        if not down:
            self.down = {}
            return swarm
        self.down = {id_: self.down.get(id_, now) for id_ in down}
        return replace(swarm, entries=tuple(self._aged(entry, now) for entry in swarm.entries))

    def _aged(self, entry: Entry, now: float) -> Entry:
        since = self.down.get(entry.id)
        return entry if since is None else replace(entry, down_for=now - since)

    def _keep_tick(self, clock: Clock) -> None:
        if clock.quality in ("ntp", "peer") and clock.time - self.card.tick >= TICK:
            self.card.tick = clock.time

    # --- say --------------------------------------------------------------------------------------

    def publish(self, seen: Observation, decision: Decision, t: float) -> None:
        hello = self.core.hello(self.config, seen, decision)
        before = self.snapshot
        you = self.core.bound(seen.swarm) if seen.swarm else {}
        self.snapshot = (hello, you, t)
        mood = self.core.mood(hello)
        same = mood == self.mood and before is not None and before[1] == you
        if same and (mood != LEADING or not self.core.news(before[0], hello)):
            return
        changed, self.mood = mood != self.mood, mood
        for name, line in self.lines.items():
            said = self.core.addressed(hello, you, name)
            news = mood == LEADING and self.core.news(line.told, said)
            line.told = said
            if news:
                line.calls = replace(line.calls, news=True)
            if news or changed:
                self.plan(line, t)

    # --- asks -------------------------------------------------------------------------------------

    def park(self, t: float, ask: Ask, answer: Callable[[Reply], None]) -> None:
        """Take an ask in: the main loop answers it, or time does."""
        if self.dead:
            return
        number = self.world.number()
        for old, (one, tell) in list(self.asks.items()):
            if (one.kind, one.claim) == (ask.kind, ask.claim):
                del self.asks[old]
                tell(Reply("later", "asked again"))
        if len(self.asks) >= LIMITS.asks:
            answer(Reply("later", "too many ask at once"))
            return
        self.asks[number] = (replace(ask, number=number, at=self.now(t)), answer)
        self.world.at(t + LIMITS.answer, self._expire, number)
        self.wake(t)

    def _expire(self, t: float, number: int) -> None:
        found = self.asks.pop(number, None)
        if found and not self.dead:
            found[1](BUSY)

    def _ask(self, action: AskJoin | ReportJoined, t: float) -> None:
        """Send an ask and wait for its answer, as the main loop does."""
        world = self.world
        self.rpc += 1
        number = self.rpc
        failure = self.core.outcome(failure=f"{action.leader}: no answer in time")
        world.at(t + JOIN_PATIENCE, self.finish, action, failure)
        host = world.find(self, action.leader)
        if host is None or world.loses():
            return
        if host.shell is None:
            refused = self.core.outcome(failure=f"{action.leader}: connection refused")
            world.at(t + world.delay(), self.finish, action, refused)
            return
        joined = isinstance(action, ReportJoined)
        node_id = action.node_id if isinstance(action, ReportJoined) else ""
        ask = Ask(0, "joined" if joined else "join", self.card.claim, 0.0, node_id)
        there = host.shell

        def answer(reply: Reply) -> None:
            # peers.py takes no answer from a worker.
            reached = there.card.config.role == "manager" and world.reach(there.box, self.box)
            if reached and not world.loses():
                world.at(world.t + world.delay(), self._replied, action, number, reply)

        world.at(t + world.delay(), there.park, world.faults.forge(self, ask), answer)

    def _replied(self, t: float, action: AskJoin | ReportJoined, number: int, reply: Reply) -> None:
        if self.dead or number != self.rpc or self.busy is not action:
            return
        self.heard(reply.leader or action.leader, True, t)
        grant = None
        if reply.token:
            grant = Grant(reply.token, reply.address, reply.swarm_id, reply.epoch, at=self.now(t))
        self.finish(t, action, self.core.outcome(reply.status, reply.why, grant))

    # --- apply ------------------------------------------------------------------------------------

    def _begin(self, action: Action, seen: Observation, t: float) -> None:
        if isinstance(action, (AskJoin, ReportJoined)):
            self._ask(action, t)
            return
        ask = None
        try:
            if isinstance(action, Answer):
                ask = self._answer(action, seen, t)
                seconds = TURN
            else:
                seconds = self.world.apply[type(action)](self, action, t)
        except DockerError as error:
            self.world.at(
                t + COMMAND, self.finish, action, self.core.outcome(failure=str(error)), ask
            )
            return
        self.world.at(t + seconds, self.finish, action, self.core.outcome(), ask)

    def _answer(self, action: Answer, seen: Observation, t: float) -> Ask | None:
        open_ = {ask.number: ask for ask in seen.asks}
        reply = Reply(action.status, action.why, leader=action.leader)
        if action.status == "granted" and seen.swarm is not None:
            reply = Reply(
                action.status,
                action.why,
                leader=self.config.name,
                token=self.world.fabric.worker_token(self.card.engine, t),
                address=self.config.address,
                swarm_id=seen.swarm.id,
                epoch=seen.swarm.epoch,
            )
        found = self.asks.pop(action.number, None)
        if found:
            found[1](reply)
        return open_.get(action.number)
