"""Starting poses at a stated mTRE.

Van de Kraats, Penney, Tomazevic, van Walsum and Niessen, "Standardized evaluation methodology for 2-D-3-D registration" (IEEE
TMI 2005), report success by bins of the starting mTRE. Poses drawn from a box and sorted into bins leave the first bins nearly
empty; here a random motion is scaled until its mTRE is the one asked for.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from raylign.errors import InputError
from raylign.simulation.poses.motions import moved, turned

Bin = tuple[float, float]

_MOST_STEPS = 200


def mtre_bins(up_to: float = 60.0) -> tuple[Bin, ...]:
    """Bins of starting mTRE in mm: 1 mm wide up to 20 mm, 5 mm beyond.

    Raises
    ------
    InputError: an end at which no bin ends.
    """
    fine = [(float(low), low + 1.0) for low in range(20)]
    coarse = [(float(low), low + 5.0) for low in range(20, max(20, math.ceil(up_to)), 5)]
    bins = tuple(b for b in (*fine, *coarse) if b[1] <= up_to)
    if not bins or bins[-1][1] != up_to:
        raise InputError(f"no bin ends at {up_to:g} mm", field="up_to", remedy="give whole mm up to 20, a multiple of 5 beyond")
    return bins


def scaled_into(
    truth: Float[Tensor, "B 4 4"],
    axes: Float[Tensor, "B 3 3"],
    points: tuple[Float[Tensor, "3"], Float[Tensor, "N 3"]],
    wanted: tuple[Float[Tensor, "B 6"], Float[Tensor, " B"]],
    largest_deg: float,
) -> Float[Tensor, "B 4 4"]:
    """True poses moved along given directions just so far that the mTRE is the one wanted.

    With shift t and turn w of a direction, the motion of size s is a shift by s t and a turn by s w, the latter no longer than
    ``largest_deg``. Its mTRE is continuous in s, 0 at 0 and at least ``s |t| - (mean shift by the turn)``: a root is bracketed
    always and found by bisection, quickened by the secant (Illinois).

    Parameters
    ----------
    points: the centre of turns and the targets, patient mm.
    wanted: direction (mm, degrees) and mTRE (mm) for each pose.

    Raises
    ------
    InputError: no targets.
    """
    centre, targets = points
    device = truth.device
    direction, goal = (x.to(device) for x in wanted)
    p = torch.as_tensor(targets, dtype=torch.float64, device=device)
    if p.ndim != 2 or p.shape[1] != 3 or p.shape[0] == 0:
        raise InputError(f"targets are points [N, 3] with N > 0, got shape {tuple(p.shape)}", field="targets")
    shift = (direction[:, None, :3] @ axes)[:, 0]
    length = shift.norm(dim=1, keepdim=True)
    # A direction of hardly any shift could not reach every distance; it gets a little. Nobody meets it: a box gives less than
    # a thousandth of its size with a probability of 1e-9.
    floor = 1e-3 * direction.abs().amax(1, keepdim=True).clamp_min(1e-12)
    shift = torch.where(length < floor, floor * torch.nn.functional.normalize(shift + floor * axes[:, 0], dim=1), shift)
    turn = direction[:, 3:]
    angle = turn.norm(dim=1)
    arms = (p - centre)[None] @ truth[:, :3, :3].transpose(-1, -2)  # from the centre to the targets, in the world

    def turned_by(s: Tensor) -> Tensor:
        within = torch.minimum(s, largest_deg / angle.clamp_min(1e-12))
        return turned(axes, within[:, None] * turn)

    def excess(s: Tensor) -> Tensor:
        moved_by = arms @ turned_by(s).transpose(-1, -2) - arms + (s[:, None] * shift)[:, None]
        return moved_by.norm(dim=-1).mean(-1) - goal

    reach = (goal + 2 * arms.norm(dim=-1).mean(-1)) / shift.norm(dim=1)
    size = _root(excess, 1.001 * reach, 1e-9 * goal.clamp_min(1e-6))
    return moved(truth, centre, turned_by(size), size[:, None] * shift)


def _root(excess, high: Tensor, tolerance: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
    """Where ``excess`` vanishes between 0 and ``high``; it is negative at 0 and positive at ``high``."""
    low = torch.zeros_like(high)
    at_low, at_high = excess(low), excess(high)
    best, at_best = high.clone(), at_high.clone()
    side = torch.zeros_like(high)
    for step in range(_MOST_STEPS):
        secant = high - at_high * (high - low) / (at_high - at_low)
        middle = (low + high) / 2
        # a bisection now and then, so that the bracket is sure to close
        s = middle if step % 4 == 3 else torch.where((secant > low) & (secant < high), secant, middle)
        value = excess(s)
        better = value.abs() < at_best.abs()
        best, at_best = torch.where(better, s, best), torch.where(better, value, at_best)
        if bool((at_best.abs() <= tolerance).all()):
            break
        above = value > 0
        # Illinois: an end that stays twice in a row has its value halved, or the secant would creep
        at_low = torch.where(above, torch.where(side > 0, at_low / 2, at_low), value)
        at_high = torch.where(above, value, torch.where(side < 0, at_high / 2, at_high))
        low, high = torch.where(above, low, s), torch.where(above, s, high)
        side = torch.where(above, torch.ones_like(side), -torch.ones_like(side))
    return best
