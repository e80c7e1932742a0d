"""A regressor in one file, with what it takes to use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from raylign.methods.cubes import CubeConfig
from raylign.methods.pose_regression.iterate import IterateConfig
from raylign.methods.pose_regression.model import Regressor
from raylign.methods.pose_regression.network import NetworkConfig, RegressionNetwork
from raylign.methods.weights import fitting, read_weights_of, whole_scans, write_weights
from raylign.simulation.datasets.typed import typed

METHOD = "pose-regression"
_SCHEMA = 1


@dataclass(frozen=True, eq=False)
class Learned:
    """A trained network and how it is used.

    Parameters
    ----------
    network: in evaluation mode.
    cube: what it was trained to see. iterate: when its iterations end.
    about: recipe, seed, settings, figures: what the model card says.
    """

    network: RegressionNetwork
    cube: CubeConfig
    iterate: IterateConfig = field(default_factory=IterateConfig)
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether its models were whole scans; else they were bones."""
        return whole_scans(self.about)

    @property
    def regressor(self) -> Regressor:
        return Regressor(self.network, self.cube)

    def save(self, path: str | Path) -> None:
        """Write it as safetensors.

        Raises
        ------
        InputError: the file cannot be written.
        """
        said = {"network": asdict(self.network.config), "cube": asdict(self.cube), "iterate": asdict(self.iterate)}
        about = {"method": METHOD, "schema": _SCHEMA, **said, "about": dict(self.about)}
        write_weights(path, self.network.state_dict(), about)


def read_learned(path: str | Path, device: str | torch.device = "cpu") -> Learned:
    """A regressor as ``Learned.save`` wrote it.

    Raises
    ------
    InputError: no such file, a damaged one, one of another method.
    """
    tensors, said = read_weights_of(path, METHOD, _SCHEMA, "recipes/gao2024_regression.yaml")
    with fitting(path):
        cube, steps = typed(CubeConfig, said["cube"], "cube", path), typed(IterateConfig, said["iterate"], "iterate", path)
        network = RegressionNetwork(typed(NetworkConfig, said["network"], "network", path), cube.pixels)
        network.load_state_dict(tensors)
        about = said["about"]
        if not isinstance(about, Mapping):
            raise TypeError("about holds no names and values")
    return Learned(network.to(device).eval(), cube, steps, about)
