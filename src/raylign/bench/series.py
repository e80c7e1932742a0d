"""How cost grows: with the empty space around the patient, and with the voxels that a ray crosses."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from raylign.bench.cases import OURS
from raylign.bench.process import Failed
from raylign.bench.scene import Scene, cameras, scene

if TYPE_CHECKING:
    from raylign.bench.measure import Comparison

_WHO = (OURS, "rtk")
_CALLS = 9
_MARGINS = (1.0, 1.25, 1.5, 2.0)
_VOXELS = (0.25, 0.375, 0.5, 0.75, 1.0)  # of the comparison's


def scaled(run: Comparison) -> dict[str, list[dict[str, Any]]]:
    """Forward, batch 1, 200 x 200 rays at the most, raylign and RTK, each at the setting it has in the comparison.

    ``empty``: the body on a grid of half the comparison's voxels an edge, of one pitch, with more and more air about it: the same
    rays cross the same tissue. ``crossed``: the same cube at finer and finer pitch; the step follows the pitch.
    """
    voxels = run.plan.voxels
    found: dict[str, list[dict[str, Any]]] = {"empty": [], "crossed": []}
    for margin in _MARGINS:
        found["empty"] += _measured(run, scene(max(8, voxels // 2), margin=margin), {"margin": margin})
    for share in _VOXELS:
        count = max(8, round(voxels * share))
        found["crossed"] += _measured(run, scene(count), {"voxels": count})
    return found


def _measured(run: Comparison, subject: Scene, about: dict[str, Any]) -> list[dict[str, Any]]:
    crew = run.crew
    taking = [who for who in _WHO if who in crew.members and crew.revive(who)]
    crew.show(subject, taking)
    taking = [who for who in taking if who in crew.members]
    size = min(200, max(run.plan.sizes))
    times: dict[str, list[float]] = {who: [] for who in taking}
    for who in taking:
        case = cameras(who, subject, size, 1)
        setting = run.chosen(who, size).setting
        try:
            crew.members[who].ask("prepare", run.timeout, what="forward", case=case, setting=setting, truth=[])
        except Failed:
            del times[who]
    for _ in range(_CALLS):
        for who in times:
            times[who] += crew.members[who].ask("run", run.timeout, calls=1)["ms"]
    return [{"who": who, **about, "ms": statistics.median(ms)} for who, ms in times.items()]
