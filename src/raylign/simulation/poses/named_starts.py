"""Starts by name; ``named`` cites the papers."""

from __future__ import annotations

from dataclasses import replace

from raylign.simulation.poses.bins import mtre_bins
from raylign.simulation.poses.laws import Normal, Uniform, fixed, within
from raylign.simulation.poses.motions import Motion, in_plane, isotropic
from raylign.simulation.poses.starts import Binned, Grid, Ring, Scattered, StartSampler

_TOTH_CHOSEN = "uniform and independent within the limits; the turn about the left ventricle's centre"
_GAO_ABOUT = "about the canonical pose, as the targets are, and not about the truth; the order of turns"
_EVEN = isotropic(within(1.0), within(1.0))

_GAO_TEST = Scattered(
    "gao2024/test",
    "We sampled an exhaustive initialization pose space following uniformly sampled translation of (-200, 200) mm for"
    " in-plane"
    " direction and (-300, 300) mm for depth direction, uniformly sampled rotation of (-50, 50) degrees.",
    _GAO_ABOUT,
    isotropic(within(200.0), within(50.0), within(300.0)),
    "canonical",
)

STARTS: dict[str, StartSampler] = {
    s.name: s
    for s in (
        Scattered(
            "toth2018",
            "The maximal perturbation of the translation components of the GT transformation was 35 mm, and the maximal rotation"
            " component was 15 degrees. [...] Transformations with the 3 DOF (2 translations and 1 rotation), defined by the"
            " imaging"
            " plane of the fixed image",
            _TOTH_CHOSEN,
            in_plane(within(35.0), within(15.0)),
        ),
        Grid(
            "toth2018/grid",
            "The models were perturbed on a regular grid of translations (-30 to 30 mm, with 5 mm sampling) with random"
            " rotations (-15"
            " to 15), starting from a rough initial alignment, resulting in 169 perturbations per case.",
            "the rotations uniform; the truth stands for the rough alignment",
            30.0,
            5.0,
            within(15.0),
        ),
        Ring(
            "toth2018/ring",
            "The model was perturbed 100 times from the initial alignment to generate misalignments of the center of the LV"
            " of 30 mm.",
            "directions uniform over the circle, no rotation",
            30.0,
            fixed(0.0),
        ),
        Scattered(
            "li2021",
            "outputs an affine transformation matrix M, which can be considered as a combination of scaling, shearing,"
            " translation,"
            " rotation of the moving image",
            "all ranges, and a rigid motion in place of the affine map: shifts and a turn in plane, and depth, which scales"
            " by about a"
            " tenth; scales along two axes and shear are no motions of the patient (see li2021/affine)",
            Motion(within(30.0), within(30.0), within(75.0), depth_deg=within(15.0)),
        ),
        Binned(
            "jaganathan2021",
            "For each patient, 600 test samples are created [...] using random initial transformations of the AP and LAT"
            " views. The"
            " initial registration error measured in mTRE varies from [0,60] mm with translations in the range of [...] mm"
            " and rotation"
            " in the range of [...] degrees for all three axes.",
            "mTRE uniform over the range; the two ranges, which the text at hand has lost: a degree goes with a millimetre",
            _EVEN,
            ((0.0, 60.0),),
        ),
        _GAO_TEST,
        replace(_GAO_TEST, name="gao2024"),
        Scattered(
            "gao2024/moving",
            "following Gaussian distributions with translation in mm of N(0, 25) for in-plane (X and Y) direction and N(0,"
            " 60) for depth"
            " (Z) direction, with rotation in degrees of N(0, 25) for all three axes",
            _GAO_ABOUT + "; the second number read as the standard deviation",
            isotropic(Normal(0.0, 25.0), Normal(0.0, 25.0), Normal(0.0, 60.0)),
            "canonical",
        ),
        Scattered(
            "vanhoutte2022",
            "random affine transformations to the image with strict constraints",
            "the canonical pose itself: the atlas is registered from where it lies",
            Motion(),
            "canonical",
        ),
        Binned(
            "mtre-bin",
            "",
            "bins of 1 mm to 20 mm and of 5 mm to 60 mm, as many starts in each; uniform within a bin; a degree goes with a"
            " millimetre",
            _EVEN,
            mtre_bins(),
        ),
        Scattered(
            "raylign",
            "",
            "our own: the box that `raylign register` searches about its start",
            isotropic(Uniform(-35.0, 35.0), within(20.0)),
        ),
    )
}
