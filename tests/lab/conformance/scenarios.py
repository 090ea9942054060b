"""What is done to a few engines and what then is to be seen: data, for real ones and for fakes.

`do` is a command with its outcome: "ok", "joined", or what the refusal is about. `see` is a
question that is asked until the answer is the wanted one; `still` is asked once. stage.py has the
vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

MINUTE = 60
HOUR = 60 * MINUTE
DAY = 24 * HOUR
YEAR = 365 * DAY


@dataclass(frozen=True)
class Step:
    """`kind`: do, see or still."""

    kind: str
    text: str
    gives: str


@dataclass(frozen=True)
class Scenario:
    """`facts`: numbers of the project's measurements of Swarm that it is about."""

    name: str
    facts: str
    steps: tuple[Step, ...]

    @property
    def nodes(self) -> tuple[str, ...]:
        """Machines that it needs: a first, then b, c."""
        words = {word for step in self.steps for word in step.text.split()}
        return tuple(name for name in ("a", "b", "c") if name in words)


def do(text: str, gives: str = "ok") -> Step:
    return Step("do", text, gives)


def see(text: str, gives: str) -> Step:
    return Step("see", text, gives)


def still(text: str, gives: str) -> Step:
    return Step("still", text, gives)


def join(text: str, gives: str = "joined") -> Step:
    return do("join " + text, gives)


A, B = "a manager leader ready", "b worker ready"
UNKNOWN = "? worker unknown"
FOUNDED = (do("init a"), see("list a", A))
PAIR = (*FOUNDED, join("b to a"), see("list a", f"{A}, {B}"))
TWO = (*PAIR, do("promote b on a"), see("list a", f"{A}, b manager reachable ready"))
THREE = (
    *TWO,
    see("state b", "active manager"),
    join("c to a"),
    see("list a", f"{A}, b manager reachable ready, c worker ready"),
    do("promote c on a"),
    see("list a", f"{A}, b manager reachable ready, c manager reachable ready"),
    see("state c", "active manager"),
)

SCENARIOS = (
    Scenario(
        "founding",
        "",
        (
            see("state a", "inactive"),
            do("rotate-token a", "no manager"),
            *FOUNDED,
            see("state a", "active manager"),
            see("epoch a", "1"),
            do("init a", "already in a swarm"),
            do("demote a on a", "last manager"),
        ),
    ),
    Scenario(
        "joining",
        "S2 S15",
        (
            *PAIR,
            see("state b", "active worker"),
            see("digest b a", "same"),
            do("rotate-token b", "no manager"),
            do("rotate-ca b", "no manager"),
            do("promote b on b", "no manager"),
            join("b to a", "already in a swarm"),
            do("init b", "already in a swarm"),
        ),
    ),
    Scenario(
        "certificates",
        "S5",
        (
            *PAIR,
            see("lasts a", "90 days"),
            see("lasts b", "90 days"),
            do("keep token a"),
            do("rotate-ca a"),
            see("lasts a", "10 years"),
            see("lasts b", "10 years"),
            see("rotation a", "done"),
            see("token a", "new"),
            see("state b", "active worker"),
            join("c to a"),
            see("lasts c", "10 years"),
        ),
    ),
    Scenario(
        "digests",
        "S15",
        (
            *FOUNDED,
            see("digest a a", "same"),
            do("keep token a"),
            do("rotate-ca a"),
            see("rotation a", "done"),
            see("digest a a", "same"),
            join("b to a with kept", "failed"),
            see("state b", "inactive"),
            join("b to a"),
            see("digest b a", "same"),
            see("list a", f"{A}, {B}"),
        ),
    ),
    Scenario(
        "a dead address",
        "S2",
        (
            *FOUNDED,
            join("b to nobody", "failed"),
            see("state b", "error"),
            join("b to a", "already in a swarm"),
            do("leave b"),
            see("state b", "inactive"),
            join("b to a"),
            see("list a", f"{A}, {B}"),
        ),
    ),
    Scenario(
        "a refused port",
        "S2",
        (
            *FOUNDED,
            join("b to c with a", "failed"),
            see("state b", "inactive"),
            still("list a", A),
            join("b to a"),
            see("list a", f"{A}, {B}"),
        ),
    ),
    Scenario(
        "a wrong secret",
        "S2",
        (
            *FOUNDED,
            join("b to a with wrong-secret", "failed"),
            see("state b", "inactive"),
            still("list a", A),
            join("b to a"),
        ),
    ),
    Scenario(
        "a wrong CA",
        "S2 S15",
        (
            *FOUNDED,
            join("b to a with wrong-ca", "failed"),
            see("state b", "inactive"),
            still("list a", A),
            join("b to a"),
        ),
    ),
    Scenario(
        "a changed token",
        "",
        (
            *FOUNDED,
            do("keep token a"),
            do("rotate-token a"),
            see("token a", "new"),
            see("digest a a", "same"),
            join("b to a with kept", "failed"),
            see("state b", "inactive"),
            still("list a", A),
            join("b to a"),
        ),
    ),
    Scenario(
        "a joiner with its clock behind",
        "S1 S16",
        (
            *FOUNDED,
            do(f"clock b {-10 * MINUTE}"),
            join("b to a", "failed"),
            see("state b", "inactive"),
            still("list a", A),
            do("clock b 0"),
            join("b to a"),
            see("list a", f"{A}, {B}"),
        ),
    ),
    Scenario(
        "half an hour behind",
        "S16",
        (
            *FOUNDED,
            do(f"clock a {2 * HOUR}"),
            do(f"clock b {HOUR + 30 * MINUTE}"),
            join("b to a"),
            see("list a", f"{A}, {B}"),
        ),
    ),
    Scenario(
        "seventy minutes behind",
        "S16",
        (
            *FOUNDED,
            do(f"clock a {2 * HOUR}"),
            do(f"clock b {50 * MINUTE}"),
            join("b to a", "failed"),
            see("list a", f"{UNKNOWN}, {A}"),
            see("state b", "inactive"),
            do(f"clock b {2 * HOUR}"),
            join("b to a"),
            see("list a", f"{UNKNOWN}, {A}, {B}"),
            do("rotate-ca a"),
            do("wait 12"),
            still("rotation a", "under way"),
            do("remove unknown on a"),
            see("rotation a", "done"),
            see("list a", f"{A}, {B}"),
        ),
    ),
    Scenario(
        "a founder with an old clock",
        "S16",
        (
            do(f"clock a {-5 * YEAR}"),
            *FOUNDED,
            do("clock a 0"),
            do("wait 3"),
            still("state a", "active manager"),
            still("list a", A),
            do("rotate-ca a"),
            see("rotation a", "done"),
            see("lasts a", "10 years"),
            join("b to a"),
            see("list a", f"{A}, {B}"),
        ),
    ),
    Scenario(
        "a founder with an old clock, rotated late",
        "S16",
        (
            do(f"clock a {-5 * YEAR}"),
            *FOUNDED,
            do("clock a 0"),
            join("b to a", "failed"),
            see("state b", "inactive"),
            still("list a", A),
            do("rotate-ca a"),
            see("rotation a", "done"),
            join("b to a"),
            see("list a", f"{A}, {B}"),
        ),
    ),
    Scenario(
        "a founder with an old clock, restarted",
        "S16 S3",
        (
            do(f"clock a {-5 * YEAR}"),
            *FOUNDED,
            do("clock a 0"),
            do("restart a"),
            see("state a", "error"),
            see("trouble a", "its dates"),
        ),
    ),
    Scenario(
        "a start with the clock behind the certificate",
        "S3",
        (
            *PAIR,
            do("keep id b"),
            do("cut b"),
            do(f"clock b {-DAY}"),
            do("start b"),
            see("state b", "error"),
            see("trouble b", "its dates"),
            do("clock b 0"),
            do("wait 5"),
            still("state b", "error"),
            do("restart b"),
            see("state b", "active worker"),
            see("id b", "same"),
            see("list a", f"{A}, {B}"),
        ),
    ),
    Scenario(
        "promoted, demoted, removed",
        "S6",
        (
            *TWO,
            see("state b", "active manager"),
            see("list b", f"{A}, b manager reachable ready"),
            do("remove b on a", "is a manager"),
            do("demote b on a"),
            see("state b", "active worker"),
            see("list a", f"{A}, {B}"),
            do("remove b on a", "not down"),
            do("keep id b"),
            do("leave b"),
            see("state b", "inactive"),
            see("list a", f"{A}, b worker down"),
            do("remove kept on a"),
            see("list a", A),
            do("remove kept on a", "no such node"),
        ),
    ),
    Scenario(
        "no quorum",
        "S6",
        (
            *TWO,
            see("state b", "active manager"),
            do("cut b"),
            see("list a", "no quorum"),
            still("state a", "active manager"),
            do("rotate-token a", "no leader"),
            do("start b"),
            see("quorum a", "a, b"),
        ),
    ),
    Scenario(
        "a dead manager of three",
        "S6 S18",
        (
            *THREE,
            do("keep id c"),
            do("cut c"),
            see("list a", f"{A}, b manager reachable ready, c manager unreachable down"),
            do("remove kept on a", "is a manager"),
            do("demote kept on a"),
            see("list a", f"{A}, b manager reachable ready, c worker down"),
            do("remove kept on a"),
            see("list a", f"{A}, b manager reachable ready"),
        ),
    ),
    Scenario(
        "the leader dies",
        "S22",
        (
            *THREE,
            do("cut a"),
            see("quorum b", "b, c"),
            do("start a"),
            see("quorum a", "a, b, c"),
        ),
    ),
    Scenario(
        "an orphan",
        "S7 S15",
        (
            *PAIR,
            do("cut a"),
            do("wait 15"),
            still("state b", "active worker"),
            do("wipe a"),
            do("start a"),
            *FOUNDED,
            do("wait 10"),
            still("state b", "active worker"),
            see("digest b a", "other"),
            still("list a", A),
            do("leave b"),
            join("b to a"),
            see("digest b a", "same"),
        ),
    ),
    Scenario(
        "a torn state file",
        "S9",
        (
            *PAIR,
            do("keep id b"),
            do("cut b"),
            do("tear b"),
            do("start b", "ended"),
            do("repair b"),
            do("start b"),
            see("state b", "active worker"),
            see("id b", "same"),
            see("list a", f"{A}, {B}"),
        ),
    ),
    Scenario(
        "a founder's torn state file",
        "S9",
        (
            *PAIR,
            do("keep id a"),
            do("cut a"),
            do("tear a"),
            do("start a", "ended"),
            do("repair a"),
            do("start a"),
            see("state a", "active manager"),
            see("id a", "same"),
            see("list a", f"{A}, {B}"),
        ),
    ),
    Scenario(
        "a torn certificate",
        "S9",
        (
            *PAIR,
            do("cut b"),
            do("tear-certificate b"),
            do("repair b"),
            do("start b"),
            see("state b", "error"),
            do("leave b"),
            see("state b", "inactive"),
            join("b to a"),
            see("list a", f"{A}, b worker down, {B}"),
        ),
    ),
    Scenario(
        "a wiped worker",
        "S11 S18",
        (
            *PAIR,
            do("label b on a"),
            see("labels b on a", "generation=1 name=b role=worker room=attic"),
            do("keep id b"),
            do("wipe b"),
            do("start b"),
            join("b to a"),
            see("list a", f"{A}, b worker down, {B}"),
            see("id b", "new"),
            see("labels b on a", ""),
            see("labels kept on a", "generation=1 name=b role=worker room=attic"),
            do("remove kept on a"),
            see("list a", f"{A}, {B}"),
        ),
    ),
    Scenario(
        "left and back",
        "S11",
        (
            *PAIR,
            do("keep id b"),
            do("leave b"),
            see("list a", f"{A}, b worker down"),
            join("b to a"),
            see("list a", f"{A}, b worker down, {B}"),
            see("id b", "new"),
        ),
    ),
    Scenario(
        "a join that a restart drops",
        "S17",
        (
            *FOUNDED,
            do("begin b to nobody"),
            see("state b", "pending"),
            do("restart b"),
            see("state b", "inactive"),
            join("b to a"),
            see("list a", f"{A}, {B}"),
            do("wait 20"),
            still("state b", "active worker"),
        ),
    ),
    Scenario(
        "a pulled cable",
        "S7",
        (
            *PAIR,
            do("keep id b"),
            do("unplug b"),
            see("list a", f"{A}, b worker down"),
            still("state b", "active worker"),
            do("plug b"),
            see("list a", f"{A}, {B}"),
            see("id b", "same"),
        ),
    ),
    Scenario(
        "a hundred days later",
        "S5",
        (
            *FOUNDED,
            do("rotate-ca a"),
            see("rotation a", "done"),
            join("b to a"),
            do("cut a"),
            do("cut b"),
            do(f"clock a {100 * DAY}"),
            do(f"clock b {100 * DAY}"),
            do("start a"),
            do("start b"),
            see("state b", "active worker"),
            see("list a", f"{A}, {B}"),
        ),
    ),
    Scenario(
        "a hundred days later, without a rotation",
        "S4 S5",
        (
            *PAIR,
            do("cut a"),
            do("cut b"),
            do(f"clock a {100 * DAY}"),
            do(f"clock b {100 * DAY}"),
            do("start a"),
            do("start b"),
            see("state a", "error"),
            see("trouble a", "its dates"),
            see("state b", "error"),
            see("trouble b", "its dates"),
        ),
    ),
    Scenario(
        "what the swarm remembers",
        "S8 S22",
        (
            *TWO,
            do("label b on a"),
            do("supersede on a"),
            see("labels b on b", "generation=1 name=b role=worker room=attic"),
            see("generations b", "pi9=7"),
            see("epoch b", "1"),
            do("keep id b"),
            do("restart b"),
            see("id b", "same"),
            see("generations b", "pi9=7"),
            see("labels b on b", "generation=1 name=b role=worker room=attic"),
        ),
    ),
)
