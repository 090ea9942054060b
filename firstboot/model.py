"""What a node knows, sees and may do: frozen data that flows observe -> decide -> apply. Pure.

Times are seconds: `now`, `since`, `at`, `heard` on the monotonic clock of this boot; what is called
`time` is UTC by the wall clock. No value here holds a secret but `Token`, which prints as ***.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping, Optional, Tuple, Union

# Labels that the leader sets. They lie in the raft store, so every later leader finds them.
EPOCH_LABEL = "piflash.epoch"  # of the swarm
GENERATION_LABEL = "piflash.generation"  # of a node; of the swarm with ".<name>" behind it
NAME_LABEL = "piflash.name"  # of a node: the name that its certificate proved
CHARTER_LABEL = "piflash.charter"  # of the swarm
ROLE_LABEL = "piflash.role"  # of a node: the role that its certificate proved

# How far a wall clock can be trusted, worst first.
QUALITIES = ("none", "floor", "peer", "ntp")


class Token:
    """A join token, which no log, error or status may show."""

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Give the token itself, for the one call that needs it."""
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Token) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


# --- what is known ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """Who somebody is, by a certificate of the cluster's CA."""

    cluster: str
    role: str
    name: str
    generation: int


@dataclass(frozen=True)
class Memory:
    """What a node keeps on disk from boot to boot.

    `epoch`: the highest seen. `founding`: the epoch for which `swarm init` may have been called.
    `founded`: the highest epoch that this card founded; its permit is used up then. `swarm_epoch`:
    of the swarm it is in, or was last; 0 if it never was in a swarm of this cluster. `seen`: the
    highest generation per name (managers).
    """

    epoch: int
    founding: int = 0
    founded: int = 0
    swarm_epoch: int = 0
    seen: Mapping[str, int] = field(default_factory=dict)


# --- what is seen -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clock:
    """The wall clock: UTC seconds, how it was set, and what it must not fall below."""

    time: float
    quality: str
    floor: float


@dataclass(frozen=True)
class Engine:
    """What dockerd says of itself. `state`: inactive, pending, active, error or locked.

    `since`: when the state was first seen. `ca`: the digest of the swarm's root CA as join tokens
    carry it (facts S15), empty outside of a swarm. `certified`: notBefore of its own swarm
    certificate, UTC seconds, 0 if it has none. `stale_clock`: the wall clock was stepped since
    dockerd started.
    """

    state: str
    since: float
    node_id: str = ""
    manager: bool = False
    error: str = ""
    ca: str = ""
    certified: float = 0.0
    stale_clock: bool = False


@dataclass(frozen=True)
class Entry:
    """One line of the swarm's node list, by id. `down_for`: seconds for which it was not ready."""

    id: str
    name: str
    address: str
    role: str
    ready: bool
    leader: bool = False
    reachable: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    down_for: float = 0.0

    @property
    def bound(self) -> str:
        """The name whose certificate vouched for this entry; empty if none did."""
        return self.labels.get(NAME_LABEL, "")

    @property
    def generation(self) -> int:
        """The generation of the card that vouched for it; 0 if none did."""
        text = self.labels.get(GENERATION_LABEL, "")
        return int(text) if text.isdigit() else 0


@dataclass(frozen=True)
class Swarm:
    """The swarm as a manager with a quorum sees it.

    `rotations`: how often its CA was asked to rotate. `rotating`: such a rotation is under way.
    `ca_since`: notBefore of its root CA, UTC seconds.
    """

    id: str
    labels: Mapping[str, str]
    rotations: int
    rotating: bool
    ca_since: float
    entries: Tuple[Entry, ...]

    @property
    def epoch(self) -> int:
        """The epoch that its founder wrote into it; 0 if it was not founded by piflash."""
        text = self.labels.get(EPOCH_LABEL, "")
        return int(text) if text.isdigit() else 0


@dataclass(frozen=True)
class Hello:
    """What a node says of itself to whoever has a certificate of the cluster.

    `engine`: state of its engine, empty if that does not answer. `epoch`: the highest it has seen.
    `charter`: of a manager with a quorum, the operator's signature for its swarm's epoch.
    `swarm_epoch`: of the swarm that it is in, or 0. `was_member`: it ever was in a swarm
    of this cluster. `quorum`: it is a manager that sees a leader; `leader` is that one's name.
    `grants`: it is the leader and lets nodes in. `you`: the swarm node id that the caller's name is
    bound to, if it knows; `you_down`: the seconds for which that entry has not been ready.
    """

    name: str
    role: str
    generation: int
    epoch: int
    charter: str
    phase: str
    engine: str
    node_id: str
    swarm_id: str
    swarm_epoch: int
    was_member: bool
    quorum: bool
    leader: str
    grants: bool
    ca: str
    time: float
    quality: str
    you: str = ""
    you_down: float = 0.0


@dataclass(frozen=True)
class Contact:
    """A peer: what it last said and when; since when it has not answered, if it does not."""

    hello: Optional[Hello]
    heard: float
    silent_since: Optional[float] = None

    def fresh(self, now: float, *, within: float) -> Optional[Hello]:
        """Give its hello, if it answered its last call and that was not long ago."""
        if self.hello is None or self.silent_since is not None or now - self.heard > within:
            return None
        return self.hello


@dataclass(frozen=True)
class Ask:
    """An open request at the join service, from a caller whose certificate was checked.

    `kind`: join (may I have a token) or joined (this swarm node is I).
    """

    number: int
    kind: str
    claim: Claim
    at: float
    node_id: str = ""


@dataclass(frozen=True)
class Granted:
    """A token was given to this name, and whether it arrived is not known yet."""

    name: str
    generation: int
    at: float


@dataclass(frozen=True)
class Grant:
    """The token this node was given: for which swarm, and where to join."""

    token: Token
    address: str
    swarm_id: str
    epoch: int
    at: float


@dataclass(frozen=True)
class Failing:
    """A kind of action that has failed since then, and not once worked. `disk`: for want of one."""

    action: str
    since: float
    why: str
    disk: bool


@dataclass(frozen=True)
class Notes:
    """What a node keeps until it is turned off: what it did, and what it waits for.

    `refusal`: what the leader said to the last ask, at `refused_since`; since `refused_first` it
    has said nothing better. `refused`: it said no, rather than later. `strangers`: how often in a
    row the leader did not know this node's swarm id. `granted`: tokens given that have not been
    used. `token_is_out`: the worker token was given to somebody since it was last changed, or by
    an earlier leader. `failing`: the last action that failed, unless it has worked since.
    """

    grant: Optional[Grant] = None
    refusal: str = ""
    refused_since: Optional[float] = None
    refused_first: Optional[float] = None
    refused: bool = False
    strangers: int = 0
    restarted: Optional[float] = None
    granted: Tuple[Granted, ...] = ()
    token_is_out: bool = True
    demoted: Optional[float] = None
    failing: Optional[Failing] = None


@dataclass(frozen=True)
class Observation:
    """Everything that a decision rests on, besides the card.

    `trouble`: what came instead of an answer of dockerd, if it did not answer all it was asked.
    """

    clock: Clock
    begun: float
    address_up: bool
    engine: Optional[Engine]
    engine_since: float
    swarm: Optional[Swarm]
    peers: Mapping[str, Contact]
    memory: Memory
    notes: Notes = field(default_factory=Notes)
    asks: Tuple[Ask, ...] = ()
    trouble: str = ""


# --- what is done -------------------------------------------------------------------------------


@dataclass(frozen=True)
class RaiseAddress:
    """Put the cluster address on its interface."""


@dataclass(frozen=True)
class StepClock:
    """Set the wall clock forward to a time that a peer proved to have."""

    time: float


@dataclass(frozen=True)
class FallToFloor:
    """Set the wall clock back to its floor: nobody vouches for what it says beyond that."""


@dataclass(frozen=True)
class RestartDocker:
    """Restart dockerd, for it does not look again at its certificates (facts S3)."""


@dataclass(frozen=True)
class Remember:
    """Keep another memory on disk."""

    memory: Memory


@dataclass(frozen=True)
class Init:
    """Found the swarm, with the epoch among its labels."""

    epoch: int


@dataclass(frozen=True)
class RotateCa:
    """Have the swarm's root CA made anew, with certificates of ten years (facts S5, S16)."""


@dataclass(frozen=True)
class AskJoin:
    """Ask the leader for a worker token."""

    leader: str


@dataclass(frozen=True)
class Join:
    """Join the swarm with the grant."""

    grant: Grant


@dataclass(frozen=True)
class Leave:
    """Leave the swarm, or what is left of a try to join one (facts S2)."""


@dataclass(frozen=True)
class ReportJoined:
    """Tell the leader which swarm node this is."""

    leader: str
    node_id: str


@dataclass(frozen=True)
class Answer:
    """Answer an ask. `status`: granted, bound, later, refused, unknown or elsewhere."""

    number: int
    status: str
    why: str
    leader: str = ""


@dataclass(frozen=True)
class Bind:
    """Write a name, generation, role and labels onto a swarm node."""

    node_id: str
    name: str
    generation: int
    role: str
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Supersede:
    """Write into the swarm that cards of this name below a generation are void."""

    name: str
    generation: int


@dataclass(frozen=True)
class Promote:
    """Make a worker a manager."""

    node_id: str


@dataclass(frozen=True)
class Demote:
    """Make a manager a worker."""

    node_id: str


@dataclass(frozen=True)
class Remove:
    """Take a node that is down off the swarm's list, never with force."""

    node_id: str


@dataclass(frozen=True)
class RotateToken:
    """Make the worker token anew: the old one was given away."""


Action = Union[
    RaiseAddress,
    StepClock,
    FallToFloor,
    RestartDocker,
    Remember,
    Init,
    RotateCa,
    AskJoin,
    Join,
    Leave,
    ReportJoined,
    Answer,
    Bind,
    Supersede,
    Promote,
    Demote,
    Remove,
    RotateToken,
]


@dataclass(frozen=True)
class Decision:
    """One step, or none for now. `reason` is of reasons.REASONS where only a person can help.

    `wait`: seconds until it is worth looking again; nothing is lost by looking earlier.
    """

    phase: str
    why: str
    action: Optional[Action] = None
    wait: float = 0.0
    reason: str = ""
