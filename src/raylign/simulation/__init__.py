"""Made patients and made exposures, for demonstrations, tests and training.

The names here load when first used: what a patient is, how he is exposed, where he lies, what is in the picture, how thousands
of such pictures are made. Packages: ``phantoms``, ``physics``, ``instruments``, ``poses``, ``appearance``, ``datasets``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raylign.simulation.appearance import PRESETS
    from raylign.simulation.datasets.dataset import make_dataset
    from raylign.simulation.datasets.recipes import Recipe, read_recipe
    from raylign.simulation.datasets.shards import read_shards
    from raylign.simulation.datasets.streams import Batch, Stream, StreamConfig
    from raylign.simulation.deformation import Deformation, DeformationConfig
    from raylign.simulation.freeform import FreeForm
    from raylign.simulation.instruments import (
        INSTRUMENT_SETS,
        INSTRUMENTS,
        InstrumentSet,
        Placed,
        Site,
        Wire,
        draw_instrument,
        guide_wire,
        instrument_mask,
        instrument_paths,
    )
    from raylign.simulation.labelled import Labelled
    from raylign.simulation.phantoms import (
        AortaConfig,
        FemurConfig,
        LumbarConfig,
        PelvisConfig,
        ThoraxConfig,
        aorta,
        lumbar,
        pelvis,
        proximal_femur,
        thorax,
    )
    from raylign.simulation.physics.apparatus import Collimator, Detector, Dose, ExposureConfig, Intensifier, Tube
    from raylign.simulation.physics.display import Display, displayed
    from raylign.simulation.physics.exposure import Exposure, Exposures, expose, expose_batch
    from raylign.simulation.physics.materials import Matter
    from raylign.simulation.physics.ranges import ExposureRanges
    from raylign.simulation.physics.scatter import ScatterConfig
    from raylign.simulation.poses import starts, targets
    from raylign.simulation.seeds import generator, numpy_generator
    from raylign.simulation.shapes import ShapeModel
    from raylign.simulation.subject import Subject
    from raylign.simulation.subjects import split, subject_from_ct
    from raylign.simulation.variation import VariationConfig, vary

_WHERE = {
    "appearance": ("PRESETS",),
    "datasets.dataset": ("make_dataset",),
    "datasets.recipes": ("Recipe", "read_recipe"),
    "datasets.shards": ("read_shards",),
    "datasets.streams": ("Batch", "Stream", "StreamConfig"),
    "deformation": ("Deformation", "DeformationConfig"),
    "freeform": ("FreeForm",),
    "instruments": (
        "INSTRUMENTS", "INSTRUMENT_SETS", "InstrumentSet", "Placed", "Site", "Wire", "draw_instrument", "guide_wire",
        "instrument_mask", "instrument_paths",
    ),
    "labelled": ("Labelled",),
    "phantoms": (
        "AortaConfig", "FemurConfig", "LumbarConfig", "PelvisConfig", "ThoraxConfig", "aorta", "lumbar", "pelvis",
        "proximal_femur", "thorax",
    ),
    "physics.apparatus": ("Collimator", "Detector", "Dose", "ExposureConfig", "Intensifier", "Tube"),
    "physics.display": ("Display", "displayed"),
    "physics.exposure": ("Exposure", "Exposures", "expose", "expose_batch"),
    "physics.materials": ("Matter",),
    "physics.ranges": ("ExposureRanges",),
    "physics.scatter": ("ScatterConfig",),
    "poses": ("starts", "targets"),
    "seeds": ("generator", "numpy_generator"),
    "shapes": ("ShapeModel",),
    "subject": ("Subject",),
    "subjects": ("split", "subject_from_ct"),
    "variation": ("VariationConfig", "vary"),
}  # fmt: skip
_MODULE = {name: module for module, names in _WHERE.items() for name in names}

__all__ = sorted(_MODULE)


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'raylign.simulation' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"raylign.simulation.{_MODULE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
