"""A chest painted layer by layer: skin, fat and muscle, organs, heart, lungs, blood, skeleton, texture."""

from __future__ import annotations

import numpy as np

from raylign.simulation.phantoms import thorax_bones, thorax_heart, thorax_organs, thorax_shape, thorax_texture, thorax_vessels
from raylign.simulation.phantoms.field import Array, Box, Canvas, Ellipsoid, Grid, Union
from raylign.simulation.phantoms.thorax_draw import Chest
from raylign.simulation.phantoms.thorax_names import BLOOD, BONE_KINDS, BONES, FAT, MUSCLE, NUMBER, ORGANS, SKIN
from raylign.simulation.phantoms.thorax_shape import LEVELS, ChestShape, Points


def painted(grid: Grid, chest: Chest, contrast: float, streams: list[np.random.Generator]) -> Canvas:
    """HU and labels without noise; ``streams``: for the lungs, and for the texture."""
    canvas = Canvas.of_air(grid)
    cavity = grid.evaluate(lambda x, y, z: thorax_shape.cage(chest.shape, (x, y, z)))
    _wall(canvas, chest.shape, cavity)
    _abdomen(canvas, chest, cavity)
    left = _heart(canvas, chest)
    _lungs(canvas, chest, cavity, streams[0])
    _vessels(canvas, chest, left, contrast, streams[0])
    bones = _skeleton(canvas, chest.shape)
    thorax_texture.mottle(canvas, bones, chest.shape.calcified, streams[1])
    return canvas


def _wall(canvas: Canvas, shape: ChestShape, cavity: Array) -> None:
    """Skin, fat, muscle layers and the fat inside the cage."""
    grid = canvas.grid
    trunk = grid.evaluate(lambda x, y, z: thorax_shape.trunk(shape, (x, y, z)))
    body = trunk
    if shape.breast > 0 or shape.belly > 1:
        body = grid.evaluate(lambda x, y, z, d: thorax_shape.skin(shape, (x, y, z), d), None, trunk)
    canvas.fill(body, SKIN, NUMBER["skin"])
    canvas.fill(body + np.float32(2.2), FAT, NUMBER["subcutaneous_fat"])
    for solid in thorax_shape.breasts(shape):
        _gland(canvas, solid, body)
    deep = trunk + np.float32(shape.fat)
    dark = np.float32(13 * shape.muscle)  # fat between the outer and the inner layer

    def layers(x: Array, y: Array, z: Array, d: Array) -> Array:
        out: Array = np.float32(MUSCLE) - np.float32(110) * np.exp(-np.square((d + dark) / np.float32(1.6)))
        return out

    canvas.fill(deep, grid.evaluate(layers, None, deep), NUMBER["muscle"])

    def within(x: Array, y: Array, z: Array) -> Array:
        # the abdominal wall and the diaphragm are muscle; what they hold starts as fat
        under = thorax_shape.dome(shape, x, y) - z
        out: Array = np.where(under > 3.5, np.float32(FAT), np.where(under > 0, np.float32(MUSCLE), np.float32(-80)))
        return out

    inside = cavity + np.float32(7)
    canvas.fill(inside, grid.evaluate(within), 0)

    def beside(x: Array, y: Array, z: Array, d: Array) -> Array:
        # muscles along the spine, in the cage's own gutter and behind it
        sx, sy = (v.reshape(z.shape).astype(np.float32) for v in thorax_shape.spine_line(shape, z.ravel()))
        a, b = (s * f for s, f in zip((21, 17), shape.scale, strict=False))
        off = np.square((np.abs(x - sx) - np.float32(20 * shape.scale[0])) / np.float32(a))
        q = np.sqrt(off + np.square((y - sy - np.float32(34 * shape.scale[1])) / np.float32(b)))
        return np.maximum((q - 1) * np.float32(18), d + np.float32(5))

    canvas.fill(grid.evaluate(beside, None, trunk), MUSCLE, NUMBER["muscle"])


def _gland(canvas: Canvas, breast: Ellipsoid, body: Array) -> None:
    """The gland in a breast: strands of tissue in fat, as one mean value."""
    a, b, c = (0.62 * r for r in breast.radii)
    solid = Ellipsoid(breast.centre, (a, b, c), breast.axis)
    box = canvas.grid.box(np.subtract(breast.centre, max(breast.radii)), np.add(breast.centre, max(breast.radii)))
    if box is not None:
        x, y, z = canvas.grid.coordinates(box)
        canvas.fill(np.maximum(solid.distance(x, y, z), body[box] + np.float32(5)), -45.0, None, box)


def _abdomen(canvas: Canvas, chest: Chest, cavity: Array) -> None:
    """The organs under the diaphragm."""
    grid, shape = canvas.grid, chest.shape
    low = np.flatnonzero(grid.z < -35 * shape.scale[2] + max(max(shape.diaphragm), 0.0))
    if not len(low):
        return
    box = (slice(0, int(low[-1]) + 1), *grid.whole[1:])
    room = grid.evaluate(lambda x, y, z, d: thorax_organs.room(shape, chest.heart, (x, y, z), d), box, cavity[box])
    liver = grid.evaluate(lambda x, y, z, d: np.maximum(thorax_organs.liver(shape, (x, y, z)), d), box, room)
    canvas.fill(liver, ORGANS["liver"], NUMBER["liver"], box)
    for name, solid in thorax_organs.abdomen(shape).items():
        _clipped(canvas, solid, room, name)


def _clipped(canvas: Canvas, solid: Ellipsoid, room: Array, name: str) -> None:
    """An organ cut off by the walls of its room; the stomach and the colon hold gas in front, as in a patient on the back."""
    reach = max(solid.radii) + 4
    centre = np.asarray(solid.centre)
    box = canvas.grid.box(centre - reach, centre + reach)
    if box is None or box[0].start >= len(room):
        return
    box = (slice(box[0].start, min(box[0].stop, len(room))), box[1], box[2])
    x, y, z = canvas.grid.coordinates(box)
    d = np.maximum(solid.distance(x, y, z), room[box])
    canvas.fill(d, ORGANS[name], NUMBER[name], box)
    if name in ("stomach", "colon"):
        level = solid.centre[1] - (4 if name == "stomach" else 0)
        canvas.fill(np.maximum(d + np.float32(3), y - np.float32(level)), -1000.0, None, box)


def _heart(canvas: Canvas, chest: Chest) -> tuple[Box, Array] | None:
    """The chambers' walls; gives the distance to the left ventricle's outer surface and the box it is known in."""
    heart, walls = chest.heart, Union.empty(canvas.grid)
    for solid in heart.chambers.values():
        walls.ellipsoid(solid, NUMBER["heart_walls"])
    canvas.paint(walls, 54)
    box = thorax_heart.near(heart, walls, 6 * canvas.grid.voxel)
    if box is None:
        return None
    left = canvas.grid.evaluate(lambda x, y, z: thorax_heart.left_outside(heart, (x, y, z)), box)
    canvas.fill(left, 54, NUMBER["heart_myocardium"], box)
    return box, left


def _lungs(canvas: Canvas, chest: Chest, cavity: Array, rng: np.random.Generator) -> None:
    """Air and tissue: denser behind (a patient on the back) and mottled."""
    grid = canvas.grid
    lungs = grid.evaluate(lambda x, y, z, d: thorax_organs.lungs(chest.shape, chest.heart, (x, y, z), d), None, cavity)
    vessels = Union.empty(grid)
    thorax_vessels.beside_the_lungs(vessels, chest.shape, chest.heart, chest.aorta)
    np.maximum(lungs, -vessels.distance, out=lungs)
    hu = thorax_texture.lung_mottle(canvas, rng)
    hu *= np.float32(16)
    hu += (np.float32(-855) + np.float32(0.35) * (grid.y + np.float32(20)))[None, :, None]
    middle = int(np.searchsorted(grid.x, 3.0))
    for side, part in (("right", slice(0, middle)), ("left", slice(middle, len(grid.x)))):
        box = (*grid.whole[:2], part)
        if part.start < part.stop:
            canvas.fill(lungs[box], hu[box], NUMBER[f"lung_{side}"], box)


def _vessels(canvas: Canvas, chest: Chest, left: tuple[Box, Array] | None, contrast: float, rng: np.random.Generator) -> None:
    """Blood in chambers, great vessels and lungs, the airways, the cord in its canal."""
    grid, shape, heart = canvas.grid, chest.shape, chest.heart
    tree = Union.empty(grid)
    thorax_organs.lung_tree(tree, shape, heart, rng, NUMBER["lung_vessels"])
    canvas.paint(tree, BLOOD + contrast)
    for name, draw in thorax_vessels.blood(shape, heart, chest.aorta).items():
        union = Union.empty(grid)
        draw(union, NUMBER[name])
        if left is not None and name != "heart_ventricle_left":
            part = union.distance[left[0]]
            np.maximum(part, -left[1], out=part)
        canvas.paint(union, BLOOD + contrast)
    lumen, wall = Union.empty(grid), Union.empty(grid)
    thorax_organs.airways(lumen, wall, shape, NUMBER["trachea"])
    canvas.paint(wall, 20, labelled=False)
    canvas.paint(lumen, -995)
    line = canal(shape)
    sac, cord = Union.empty(grid), Union.empty(grid)
    sac.tube(line, 8.5, 0)
    cord.tube(line, 5.0, NUMBER["spinal_cord"])
    canvas.paint(sac, 8, labelled=False)
    canvas.paint(cord, 36)


def canal(shape: ChestShape) -> Points:
    """The middle of the spinal canal [N, 3]."""
    z = np.arange(-260.0, 231.0, 10.0) * shape.scale[2]
    x, y = thorax_shape.spine_line(shape, z)
    back = np.interp(z / shape.scale[2], [-240, 170], [24.0, 17.0]) * shape.scale[1]
    return np.stack([x, y + back, z], 1)


def _skeleton(canvas: Canvas, shape: ChestShape) -> Union:
    """Discs and cartilage, then every bone."""
    soft, bones = Union.empty(canvas.grid), Union.empty(canvas.grid)
    thorax_bones.costal_cartilage(soft, shape, NUMBER["costal_cartilages"])
    for level in LEVELS:
        thorax_bones.disc(soft, shape, level, NUMBER["intervertebral_discs"])
    for name, draw in thorax_bones.skeleton(shape).items():
        draw(bones, NUMBER[name])
    hu = np.zeros(256, np.float32)
    hu[NUMBER["costal_cartilages"]], hu[NUMBER["intervertebral_discs"]] = 105, 88
    canvas.paint(soft, hu)
    shell, cortex, marrow = (np.zeros(256, np.float32) for _ in range(3))
    dense = shape.bone_hu / 190
    for name in BONES:
        thick, hard, core = BONE_KINDS[name.split("_")[0]]
        n, follows = NUMBER[name], 1.0 if name.startswith("vertebrae") else 0.5  # other bones lose less of their marrow's density
        shell[n], cortex[n], marrow[n] = thick * shape.cortex, hard * shape.cortex, core * dense**follows
    canvas.paint_bone(bones, shell, cortex, marrow)
    return bones
