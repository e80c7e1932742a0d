"""Where the arteries run: from the annulus over the arch down to the femoral bifurcations, as tubes with parents.

The plain course is that of anatomy textbooks (Gray's Anatomy, 41st ed., chapters 57, 59, 62, 74), placed on the person's own
spine and pelvis. The levels of the branches follow Pennington and Soames 2005 (coeliac trunk at the disc T12/L1, renal
arteries at the lower third of L1, inferior mesenteric artery at that of L3); the branching patterns of the arch the review of
Popieluszko et al. 2018 (J Vasc Surg 68:298), rounded. A slow random wander along each vessel, growing with age, makes it
tortuous; where vessels would touch or a bend become too tight, the wander is drawn in until they do not.
"""

from __future__ import annotations

import numpy as np

from raylign.simulation.phantoms.aorta_builder import Builder, Tree
from raylign.simulation.phantoms.aorta_frame import TrunkShape
from raylign.simulation.phantoms.aorta_sizes import AortaSizes
from raylign.simulation.phantoms.aorta_tubes import PARTED, Tube, bend, clearance


def draw_tree(trunk: TrunkShape, sizes: AortaSizes, rng: np.random.Generator) -> Tree:
    """The arteries of a person with this trunk and these sizes."""
    for _ in range(8):
        builder = Builder(trunk, sizes, rng)
        for kept in (1.0, 0.65, 0.35, 0.0):
            tree = builder.tree(kept)
            if min(clearance(walled(tree)), clearance(tree.tubes)) > PARTED and min(bend(t) for t in tree.tubes) > 1.15:
                return tree
    return tree


_WALL = {"aorta": 1.0, "iliac": 0.62, "femoral": 0.58, "brachiocephalic": 0.6, "subclavian": 0.5, "carotid": 0.45}
"""Wall thickness of a vessel in units of the aorta's; 0.4 where none is named."""


def wall_of(name: str, aortic: float) -> float:
    """Thickness of a vessel's wall, mm, where the aorta's is ``aortic``."""
    for part, factor in _WALL.items():
        if part in name:
            return factor * aortic
    return 0.4 * aortic


def walled(tree: Tree) -> list[Tube]:
    """The tubes with their walls on: outer surfaces."""
    return [t.grown(wall_of(t.name, tree.root.sizes.wall)) for t in tree.tubes]
