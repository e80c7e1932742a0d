"""A learned similarity in one file, with what it takes to use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from raylign.errors import InputError
from raylign.methods.convex_similarity.descent import DescentConfig
from raylign.methods.convex_similarity.model import Similarity
from raylign.methods.convex_similarity.network import NetworkConfig, SimilarityNetwork
from raylign.methods.cubes import CubeConfig
from raylign.methods.weights import fitting, read_weights_of, whole_scans, write_weights
from raylign.simulation.datasets.typed import typed

METHOD = "convex-similarity"
SHIPPED = Path(__file__).parent / "weights" / "similarity.safetensors"
"""Weights that come with raylign."""

_SCHEMA = 1


@dataclass(frozen=True, eq=False)
class Learned:
    """A trained network and how it is used.

    Parameters
    ----------
    network: in evaluation mode.
    cube: what it was trained to see. descent: by which steps it is descended.
    about: recipe, seed, settings, figures: what the model card says.
    """

    network: SimilarityNetwork
    cube: CubeConfig
    descent: DescentConfig = field(default_factory=DescentConfig)
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether its models were whole scans; else they were bones."""
        return whole_scans(self.about)

    @property
    def similarity(self) -> Similarity:
        return Similarity(self.network, self.cube)

    def save(self, path: str | Path) -> None:
        """Write it as safetensors.

        Raises
        ------
        InputError: the file cannot be written.
        """
        about = {
            "method": METHOD,
            "schema": _SCHEMA,
            "network": asdict(self.network.config),
            "cube": asdict(self.cube),
            "descent": asdict(self.descent),
            "about": dict(self.about),
        }
        write_weights(path, self.network.state_dict(), about)


def shipped_file(path: str | Path | None = None) -> Path:
    """A file of weights, or that which comes with raylign.

    Raises
    ------
    InputError: there is no such file.
    """
    file = SHIPPED if path is None else Path(path)
    if not file.is_file():
        raise InputError(
            "there are no weights", file=file, field="--weights",
            remedy="train some (raylign train recipes/gao2024.yaml --out DIR) and name DIR/similarity.safetensors",
        )  # fmt: skip
    return file


def shipped(path: str | Path | None = None, device: str | torch.device = "cpu") -> Learned:
    """The similarity of a file, or the one that comes with raylign.

    Raises
    ------
    InputError: there is none, or it cannot be read.
    """
    return read_learned(shipped_file(path), device)


def read_learned(path: str | Path, device: str | torch.device = "cpu") -> Learned:
    """A similarity as ``Learned.save`` wrote it.

    Raises
    ------
    InputError: no such file, a damaged one, one of another method.
    """
    tensors, said = read_weights_of(path, METHOD, _SCHEMA, "recipes/gao2024.yaml")
    with fitting(path):
        cube, descent = typed(CubeConfig, said["cube"], "cube", path), typed(DescentConfig, said["descent"], "descent", path)
        network = SimilarityNetwork(typed(NetworkConfig, said["network"], "network", path), cube.pixels)
        network.load_state_dict(tensors)
        about = said["about"]
        if not isinstance(about, Mapping):
            raise TypeError("about holds no names and values")
    return Learned(network.to(device).eval(), cube, descent, about)
