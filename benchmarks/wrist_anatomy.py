"""What anatomy says of the bones of a wrist, whoever's it is: where each lies once others are known, their frames, the side.

Nothing here is of one wrist: lengths are shares of the third metacarpal, angles are what a wrist can do. The bones are cut out
of one CT and keep its axes; the slices run from distal to proximal.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.signal import fftconvolve
from torch import Tensor

import raylign
from raylign.data import Volume
from raylign.errors import InputError
from raylign.geometry import Rigid
from raylign.geometry.anatomy import AnatomicalFrame, LongBone, Side, frame_from, long_bone, side_of
from raylign.registration import AnywhereConfig
from raylign.registration.anywhere_scan import Axis, Region
from raylign.registration.objects import Joint

BONES = ("radius", "ulna", "metacarpal3")
DISTAL = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64)  # the first slice of the cut-outs
# The ulna lies beside the radius, within so many mm and degrees of its middle and direction.
BESIDE_MM, BESIDE_DEGREES = 40.0, 25.0
# The wrist turns about the head of the capitate, a quarter of the third metacarpal's length from its base (half that length is
# the height of a carpus); of the radius that is about where its axis passes the level of its styloid. Flexion goes as far as it
# likes within 90 degrees. To the side and about its own axis the hand hardly turns against the radius: the flexion axes of the
# two stay within 50 degrees of each other (deviation 40, torsion 30), as they lie in the CT being the middle.
CENTRE, WITHIN_MM, FLEXED_DEGREES, ASIDE_DEGREES = 0.25, 15.0, 90.0, 50.0
# The second and third metacarpal are the fixed part of the hand: standard deviations of what moves between their bases.
TIED_MM, TIED_DEGREES = 0.5, 2.0


@dataclass(frozen=True, eq=False)
class Hand:
    """Models and what they say of themselves.

    Parameters
    ----------
    models: radius, ulna, metacarpal2 (the pair without the third), metacarpal3, and the pair.
    frames: anatomical frames of radius, ulna and metacarpal3, in each model's own mm.
    side: of the body, from the bones' shape.
    offset: [3] mm from the third metacarpal's model to the pair's.
    length: of the third metacarpal, mm.
    base: [3] where the two metacarpals meet, mm of the pair's model.
    """

    models: dict[str, Volume]
    frames: dict[str, AnatomicalFrame]
    side: Side
    offset: Tensor
    length: float
    base: Tensor

    def together(self) -> Joint:
        """What ties the two metacarpals: they hardly move against each other."""
        return Joint("metacarpal2", "metacarpal3", self.base, self.base - self.offset, mm=TIED_MM, degrees=(TIED_DEGREES,) * 3)

    def third(self, pair: Rigid) -> Rigid:
        """The third metacarpal's pose, of the pair's."""
        matrix = pair.matrix.clone()
        matrix[:3, 3] = pair.apply(self.offset[None])[0]
        return Rigid(matrix)


def filled(model: Volume) -> Tensor:
    """Voxels [n, 3] of a cut-out, LPS mm."""
    voxels = (model.data > 0.02 * float(model.data.max())).nonzero().flip(1).to(torch.float64)
    return voxels @ model.affine[:3, :3].T + model.affine[:3, 3]


def place_in(whole: Volume, part: Volume) -> tuple[Tensor, Volume]:
    """Where a cut-out lies in another that holds the same voxels: the shift [3] in mm, and the other without it.

    Raises
    ------
    InputError: it does not hold them.
    """
    large, small = whole.data.numpy().astype(np.float64), part.data.numpy().astype(np.float64)
    index = np.argwhere(small > 0)
    low, high = index.min(0), index.max(0) + 1
    small = small[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    least = fftconvolve(large**2, (small > 0)[::-1, ::-1, ::-1].astype(float), mode="valid")
    least -= 2 * fftconvolve(large, small[::-1, ::-1, ::-1], mode="valid")
    at = np.array(np.unravel_index(int(least.argmin()), least.shape))
    block = tuple(slice(a, a + n) for a, n in zip(at, small.shape, strict=True))
    if np.mean(large[block][small > 0] == small[small > 0]) < 0.98:
        raise InputError("the one cut-out does not hold the other", field="models", remedy="give cut-outs of one CT")
    rest = whole.data.clone()
    rest[block] = torch.where(torch.from_numpy(small > 0), torch.zeros((), dtype=rest.dtype), rest[block])
    shift = torch.from_numpy((at - low)[::-1].copy()).to(torch.float64) * torch.tensor(whole.spacing, dtype=torch.float64)
    return shift, replace(whole, data=rest)


def hand(folder: Path) -> Hand:
    """The models of a folder, put in order."""
    models = {bone: raylign.read_volume(folder / f"{bone}.nrrd") for bone in (*BONES, "metacarpals2_3")}
    models["pair"] = models.pop("metacarpals2_3")
    offset, models["metacarpal2"] = place_in(models["pair"], models["metacarpal3"])
    shape = {bone: long_bone(filled(models[bone]), DISTAL) for bone in BONES}
    third, second = shape["metacarpal3"], filled(models["metacarpal2"]).mean(0)
    radial = second - (filled(models["metacarpal3"]).mean(0) + offset)
    side = side_of(third.arch, third.proximal, radial)
    along = float(((filled(models["metacarpal3"]) - third.origin) @ third.proximal).max())
    both = filled(models["pair"])
    base = both[(both - offset - third.origin) @ third.proximal > 0.9 * along].mean(0)
    return Hand(models, frames_of(shape, side), side, offset, along, base)


def frames_of(shape: dict[str, LongBone], side: Side) -> dict[str, AnatomicalFrame]:
    """Radius: its styloid, the most distal point, is radial. Metacarpal: its shaft is hollow on the palmar side.

    Ulna: its own long axis, and what is radial of the radius in the CT, so that the forearm's rotation is zero as it lay there.
    """
    radius, ulna, third = (shape[bone] for bone in BONES)
    of_radius = frame_from(radius.origin, radius.proximal, radius.tip - radius.origin, "radial", side)
    radial = of_radius.matrix[:3, 2] * (1.0 if side == "right" else -1.0)
    return {
        "radius": of_radius,
        "ulna": frame_from(ulna.origin, ulna.proximal, radial, "radial", side, "long axis; radial as of the radius in the CT"),
        "metacarpal3": frame_from(
            third.origin, third.proximal, third.arch, "palmar", side, "long axis; hollow of the shaft: palmar"
        ),
    }


def side_seen(hand: Hand, poses: dict[str, Rigid]) -> Side:
    """The side once more, from where the bones were found: from the ulna to the radius is radial."""

    def middle(bone: str) -> Tensor:
        return poses[bone].apply(filled(hand.models[bone]).mean(0)[None])[0]

    turned = poses["metacarpal3"].matrix[:3, :3]
    third = long_bone(filled(hand.models["metacarpal3"]), DISTAL)
    return side_of(turned @ third.arch, turned @ third.proximal, middle("radius") - middle("ulna"))


def beside(hand: Hand, poses: dict[str, Rigid]) -> AnywhereConfig:
    """Where an ulna is looked for, the radius known."""
    pose = poses["radius"]
    along = pose.matrix[:3, 2].numpy()
    at = pose.apply(hand.models["radius"].centre[None])[0].numpy()
    return AnywhereConfig(
        turns=6000,
        lattice=4.0,
        tried=500,
        refined=100,
        region=Region(at, BESIDE_MM),
        axis=Axis(np.array([0.0, 0.0, 1.0]), along, BESIDE_DEGREES),
        known=((hand.models["radius"], pose),),
    )


def beyond(hand: Hand, poses: dict[str, Rigid]) -> AnywhereConfig:
    """Where a pair of metacarpals is looked for, the bones of the forearm known."""
    flexion = hand.frames["radius"].matrix[:3, 2]
    radius = poses["radius"].matrix @ hand.frames["radius"].matrix
    third = hand.frames["metacarpal3"].matrix
    pivot = third[:3, 3] + hand.offset + (1 + CENTRE) * hand.length * third[:3, 1]
    axes = (
        Axis(third[:3, 1].numpy(), radius[:3, 1].numpy(), FLEXED_DEGREES),
        Axis(flexion.numpy(), radius[:3, 2].numpy(), ASIDE_DEGREES),
    )
    return AnywhereConfig(
        turns=12000,
        lattice=5.0,
        refined=200,
        finer=100,
        region=Region(radius[:3, 3].numpy(), WITHIN_MM, pivot.numpy()),
        axis=axes,
        known=tuple((hand.models[bone], poses[bone]) for bone in ("radius", "ulna")),
    )
