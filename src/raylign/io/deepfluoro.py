"""Which projections of a DeepFluoro file can be registered: what an evaluation asks before it reads any pixels.

Reading them is ``raylign.io.hdf5``'s. Source of the layout: Grupp et al., "Automatic annotation of hip anatomy in fluoroscopy"
(IPCAI 2020), data set description, "HDF5 layouts".
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from raylign.errors import InputError
from raylign.io.files import existing_file, reading


def list_projections(path: str | Path, structure: str = "pelvis") -> dict[str, tuple[str, ...]]:
    """Of every specimen the names of the projections for which the file has, and vouches for, a structure's pose.

    Parameters
    ----------
    structure: "pelvis", "left-femur" or "right-femur". The file marks where too little of one is in the field (``...-good-fov``).

    Raises
    ------
    InputError: not such a file.
    """
    import h5py

    file = existing_file(path)
    found: dict[str, tuple[str, ...]] = {}
    with reading(file, "a DeepFluoro file"), h5py.File(file, "r") as h5:
        if "proj-params" not in h5:
            raise InputError("it has no /proj-params", field="proj-params", remedy="give the data set's file at full resolution")
        for specimen in h5:
            if specimen != "proj-params" and "projections" in h5[specimen]:
                projections = h5[specimen]["projections"]
                found[specimen] = tuple(name for name in projections if _vouched(projections[name], structure))
    return found


def _vouched(projection: object, structure: str) -> bool:
    poses = projection["gt-poses"]  # type: ignore[index]
    flag = f"{structure}-good-fov"
    known = f"cam-to-{structure}-vol" in poses
    return known and (flag not in poses or bool(np.asarray(poses[flag][()]).reshape(-1)[0]))
