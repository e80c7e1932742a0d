"""The distributions by name: those of five papers, bins of starting mTRE, and our own.

Papers: Toth et al., "3D/2D model-to-image registration by imitation learning for cardiac procedures" (IJCARS 2018); Li et al.,
"Model-to-Image Registration via Deep Learning towards Image-Guided Endovascular Interventions" (2021); Jaganathan et al., "Deep
Iterative 2D/3D Registration" (MICCAI 2021); Gao et al., "A Fully Differentiable Framework for 2D/3D Registration and the
Projective Spatial Transformers" (IEEE TMI 2024); Van Houtte et al., "Deep learning-based 2D/3D registration of an atlas to
biplanar X-ray images" (IJCARS 2022). Each entry quotes what it implements and says what the paper leaves open.
"""

from __future__ import annotations

from raylign.errors import InputError
from raylign.simulation.poses.carms import CArmModel, field_pitch
from raylign.simulation.poses.laws import Uniform, fixed, within
from raylign.simulation.poses.motions import Motion, isotropic
from raylign.simulation.poses.named_starts import STARTS
from raylign.simulation.poses.planar import AffineSampler
from raylign.simulation.poses.starts import Binned, StartSampler
from raylign.simulation.poses.targets import Direction, TargetSampler

TOTH_FIELDS_MM = (300.0, 120.0)
"""Fields of view of the fixed and of the moving image, mm in the plane of the isocentre (see ``region``)."""

_HEART = CArmModel(fixed(1200.0), fixed(785.0), (128, 128), fixed(field_pitch(TOTH_FIELDS_MM[0], 128, 1200.0, 785.0)))
_SPINE = CArmModel(fixed(1200.0), fixed(785.0), (256, 256), fixed(1.2))
_VESSELS = CArmModel(fixed(1100.0), fixed(750.0), (256, 256), fixed(1.2))
_CIOS = CArmModel(fixed(1020.0), fixed(800.0), (128, 128), fixed(2.176))
_HIP = CArmModel(fixed(1000.0), fixed(925.0), (224, 160), fixed(0.35 * 422 / 160), (640 / 224) / (422 / 160))
_ANY = CArmModel(Uniform(950.0, 1250.0), Uniform(700.0, 820.0), (128, 128), Uniform(1.6, 3.0))

_FRONTAL = Direction("AP", fixed(0.0))
_LATERAL = Direction("lateral", fixed(90.0))
_LOWER = Direction("lower field, about AP", within(15.0), within(5.0))
_UPPER = Direction("upper field, LAO", Uniform(0.0, 30.0), within(20.0))
_HEART_CHOSEN = (
    "distances; fields of view measured in the plane of the isocentre; the offset uniform in a disc; the angles uniform;"
    " the fixed image sampled at 128 x 128, resize it for regions of interest"
)
_LI_SAYS = (
    "The Field-of-View (FoV) was changed during the procedure to show the concerned vessels condition. [...] a projection"
    " image is"
    " generated according to the primary and secondary angles obtained from the fluoroscopy metadata."
)
_LI_CHOSEN = "everything: the paper states neither angles nor distances nor how far the patient lies from the isocentre"
_JAGANATHAN_SAYS = "random initial transformations of the AP and LAT views"
_JAGANATHAN_CHOSEN = (
    "distances and detector, which the text at hand has lost; the views exactly frontal and lateral, the truth varied a little"
)
_JAGANATHAN_TRUTH = isotropic(within(10.0), within(5.0))
_GAO_SAYS = (
    "image dimensions of 1536 x 1536, isotropic pixel spacing of 0.194 mm/pixel, and a source-to-detector distance of 1020"
    " mm. The"
    " images were downsampled to have dimensions of 128 x 128 with a pixel spacing of 2.176 mm/pixel. The source to iso-center"
    " distance is 800 mm. [...] uniformly sampled pose geometry with the random translation of (-25, 25) mm and rotation of"
    " (-15, 15) degrees in all three axes."
)
_HOUTTE_SAYS = (
    "DRRs were created with an image size of (422 x 640), and downsampled to (160 x 224) [...] The source-detector distance"
    " and the"
    " isocentre distance of the projection geometry were fixed to 1000 mm and 925 mm [...] The randomised angles were allowed"
    " within a"
    " range of 10 degrees extension/flexion, 10 degrees abduction/adduction and 10 degrees internal/external rotation."
)
_HOUTTE_CHOSEN = (
    "a pitch of 0.35 mm at 422 x 640, at which the femur's box fits; the isocentre distance taken from the source; turns"
    " uniform within"
    " +-10 degrees about the patient's axes, the femur's being those; no shift, no scale"
)
_HOUTTE_TURNS = Motion(column_deg=within(10.0), row_deg=within(10.0), depth_deg=within(10.0))

TARGETS: dict[str, TargetSampler] = {
    t.name: t
    for t in (
        TargetSampler(
            "toth2018",
            "a random, maximally 10 mm offset to the center of projection was introduced [...] the primary positioner angulation"
            " (left/right anterior oblique) was varied between -15 and +15, and the secondary angle (caudal/cranial) between"
            " -5 and +5."
            " [...] a large FOV, i.e., 300 mm x 300 mm",
            _HEART_CHOSEN,
            _HEART,
            (Direction("about AP", within(15.0), within(5.0)),),
            disc_mm=10.0,
        ),
        TargetSampler(
            "toth2018/clinical",
            "the anterior-posterior (AP) C-arm angulation (0+-5 primary and 0+-2 secondary angle)",
            _HEART_CHOSEN,
            _HEART,
            (Direction("AP", within(5.0), within(2.0)),),
            disc_mm=10.0,
        ),
        TargetSampler(
            "li2021",
            _LI_SAYS,
            _LI_CHOSEN + "; lower and upper fields equally often",
            _VESSELS,
            (_LOWER, _UPPER),
            disc_mm=40.0,
        ),
        TargetSampler("li2021/lower", _LI_SAYS, _LI_CHOSEN, _VESSELS, (_LOWER,), disc_mm=40.0),
        TargetSampler("li2021/upper", _LI_SAYS, _LI_CHOSEN, _VESSELS, (_UPPER,), disc_mm=40.0),
        TargetSampler(
            "jaganathan2021", _JAGANATHAN_SAYS, _JAGANATHAN_CHOSEN, _SPINE, (_FRONTAL, _LATERAL), motion=_JAGANATHAN_TRUTH
        ),
        TargetSampler("jaganathan2021/ap", _JAGANATHAN_SAYS, _JAGANATHAN_CHOSEN, _SPINE, (_FRONTAL,), motion=_JAGANATHAN_TRUTH),
        TargetSampler(
            "jaganathan2021/lateral", _JAGANATHAN_SAYS, _JAGANATHAN_CHOSEN, _SPINE, (_LATERAL,), motion=_JAGANATHAN_TRUTH
        ),
        TargetSampler(
            "gao2024",
            _GAO_SAYS,
            "the order of turns; the point is the volume's centre, as in the paper's canonical frame. 2.176 mm is what 1436"
            " pixels"
            " of 0.194 mm make in 128: a border of 50 pixels a side seems to have been cut off",
            _CIOS,
            (_FRONTAL,),
            motion=isotropic(within(25.0), within(15.0)),
        ),
        TargetSampler(
            "vanhoutte2022",
            _HOUTTE_SAYS + " The projection geometry was fixed to provide lateral and AP projections.",
            _HOUTTE_CHOSEN,
            _HIP,
            (_FRONTAL, _LATERAL),
            True,
            _HOUTTE_TURNS,
            "patient",
        ),
        TargetSampler(
            "vanhoutte2022/generalised",
            _HOUTTE_SAYS
            + " left/right anterior oblique (LAO/RAO) angle, which was randomly varied between -30 and +30, around the"
            " perfect lateral and AP view. The cranio-caudal angle was set to a constant value of 0.",
            _HOUTTE_CHOSEN + "; both angles uniform and independent",
            _HIP,
            (Direction("AP", within(30.0)), Direction("lateral", Uniform(60.0, 120.0))),
            True,
            _HOUTTE_TURNS,
            "patient",
        ),
        TargetSampler(
            "raylign",
            "",
            "our own: every C-arm that may come, distances and pitch varied",
            _ANY,
            (Direction("any", within(45.0), within(25.0)),),
            motion=isotropic(within(25.0), within(12.0)),
        ),
        TargetSampler(
            "raylign/biplane",
            "",
            "our own: two views about 90 degrees apart under one pose",
            _ANY,
            (Direction("first", Uniform(-30.0, 30.0), within(15.0)), Direction("second", Uniform(60.0, 120.0), within(15.0))),
            True,
            isotropic(within(25.0), within(12.0)),
        ),
    )
}

LI_AFFINE = AffineSampler(
    "li2021/affine",
    "outputs an affine transformation matrix M, which can be considered as a combination of scaling, shearing, translation,"
    " rotation of the moving image",
    "all ranges; the paper trains on pairs of real images and states none",
    within(0.2),
    within(0.1),
    within(15.0),
    within(0.15),
)


def targets(name: str) -> TargetSampler:
    """The distribution of exposures of that name.

    Raises
    ------
    InputError: none is called so; the line lists those there are.
    """
    try:
        return TARGETS[name]
    except KeyError:
        raise InputError(f"no target distribution {name!r}", field="targets", remedy=f"there are {', '.join(TARGETS)}") from None


def starts(name: str) -> StartSampler:
    """The distribution of starts of that name; ``mtre-bin/LOW-HIGH`` is one bin of starting mTRE in mm.

    Raises
    ------
    InputError: none is called so, or a bin that is none.
    """
    if name in STARTS:
        return STARTS[name]
    family, _, limits = name.partition("/")
    if family == "mtre-bin":
        low, _, high = limits.partition("-")
        try:
            edges = (float(low), float(high))
        except ValueError:
            raise InputError(f"{limits!r} is no bin", field="starts", remedy='write it as in "mtre-bin/3-4"') from None
        whole = STARTS["mtre-bin"]
        assert isinstance(whole, Binned)
        return Binned(name, whole.says, whole.chosen, whole.motion, (edges,), whole.largest_deg)
    known = ", ".join((*STARTS, "mtre-bin/LOW-HIGH"))
    raise InputError(f"no distribution of starts {name!r}", field="starts", remedy=f"there are {known}")
