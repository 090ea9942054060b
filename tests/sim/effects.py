"""What an action does to a fake machine, its engine and its swarm; each gives its seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from firstboot.model import (
    Action,
    Bind,
    Demote,
    FallToFloor,
    Init,
    Join,
    Leave,
    Promote,
    RaiseAddress,
    Remember,
    Remove,
    RestartDocker,
    RotateCa,
    RotateToken,
    StepClock,
    Supersede,
)

if TYPE_CHECKING:
    from tests.sim.shell import Shell

LOOKING = 0.02  # what a look at dockerd or a write to the card takes
COMMAND = 0.05


def _raise_address(shell: Shell, _action: Action, _t: float) -> float:
    shell.box.address_up = True
    shell.world.fabric.dirty = True
    return COMMAND


def _step_clock(shell: Shell, action: StepClock, t: float) -> float:
    if action.time > shell.wall(t):
        shell.box.set_clock(action.time, t)
    shell.from_peer = True
    return LOOKING


def _fall_to_floor(shell: Shell, _action: Action, t: float) -> float:
    shell.box.set_clock(shell.floor(0.0), t)
    return LOOKING


def _remember(shell: Shell, action: Remember, _t: float) -> float:
    shell.card.memory = action.memory
    return LOOKING


def _init(shell: Shell, action: Init, t: float) -> float:
    return shell.world.found(shell, action, t)


def _join(shell: Shell, action: Join, t: float) -> float:
    world = shell.world
    target = world.engine_at(shell, action.grant.address)
    return world.fabric.join(shell.card.engine, t, target=target, token=action.grant.token)


def _leave(shell: Shell, _action: Leave, t: float) -> float:
    shell.world.fabric.leave(shell.card.engine, t)
    return 0.3


def _restart(shell: Shell, _action: RestartDocker, t: float) -> float:
    return shell.box.restart_docker(t)


def _rotate_ca(shell: Shell, _action: RotateCa, t: float) -> float:
    shell.world.fabric.rotate_ca(shell.card.engine, t)
    return COMMAND


def _rotate_token(shell: Shell, _action: RotateToken, t: float) -> float:
    shell.world.fabric.rotate_token(shell.card.engine, t)
    return COMMAND


def _bind(shell: Shell, action: Bind, t: float) -> float:
    shell.world.fabric.bind(shell.card.engine, t, action)
    return COMMAND


def _supersede(shell: Shell, action: Supersede, t: float) -> float:
    shell.world.fabric.supersede(
        shell.card.engine, t, name=action.name, generation=action.generation
    )
    return COMMAND


def _promote(shell: Shell, action: Promote, t: float) -> float:
    shell.world.fabric.promote(shell.card.engine, t, action.node_id)
    return COMMAND


def _demote(shell: Shell, action: Demote, t: float) -> float:
    shell.world.fabric.demote(shell.card.engine, t, action.node_id)
    return COMMAND


def _remove(shell: Shell, action: Remove, t: float) -> float:
    shell.world.fabric.remove(shell.card.engine, t, action.node_id)
    return COMMAND


APPLY: dict[type, Callable[..., float]] = {
    RaiseAddress: _raise_address,
    StepClock: _step_clock,
    FallToFloor: _fall_to_floor,
    Remember: _remember,
    Init: _init,
    Join: _join,
    Leave: _leave,
    RestartDocker: _restart,
    RotateCa: _rotate_ca,
    RotateToken: _rotate_token,
    Bind: _bind,
    Supersede: _supersede,
    Promote: _promote,
    Demote: _demote,
    Remove: _remove,
}
