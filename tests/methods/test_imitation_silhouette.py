"""The silhouette in plane: searched from far, stepped from near, held where it is not sought."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from raylign.errors import InputError
from raylign.geometry import Rigid
from raylign.methods.imitation_agent.baselines import SearchConfig
from raylign.methods.imitation_agent.mdp import cross_error
from raylign.methods.imitation_agent.silhouette import SilhouetteConfig, exposed, silhouette_refined, silhouetted
from raylign.methods.imitation_agent.world import Exposures, World
from raylign.projection import project_mesh
from tests.methods.test_imitation_mdp import scene

BOX = SearchConfig(mm=20, degrees=10, places=2)


def test_a_model_that_is_alone_is_found_from_afar() -> None:
    start = torch.tensor([-19.0, 16.0, 9.0], dtype=torch.float64)
    found = silhouetted(World(scene()), 0, start, BOX)
    assert float(cross_error(start)) > 20
    assert float(cross_error(found.end)) < 0.2
    assert abs(float(found.end[2])) < 0.5
    assert found.looks > len(BOX.grid())
    assert found.seconds > 0


def test_it_is_blind_to_scale_and_slope_and_leaves_out_what_says_nothing() -> None:
    plain = scene()
    slope = torch.linspace(0, 3, plain.images.shape[2])[None, None]
    images = 0.3 * plain.images + slope
    images[:, :, :125] = torch.nan  # not quite a half of the model is seen
    near = torch.tensor([3.0, -2.0, 3.0], dtype=torch.float64)
    found = silhouette_refined(World(replace(plain, images=images)), 0, near)
    assert float(cross_error(found.end)) < 0.4


def test_steps_end_where_no_neighbour_is_better() -> None:
    """Against the same pictures by the mesh projector, a plain correlation of which is highest where the steps ended."""
    exposures = scene()
    world = World(exposures)
    end = silhouette_refined(world, 0, torch.tensor([2.0, 2.5, -4.0], dtype=torch.float64)).end
    view, image = exposed(world, 0).view, exposures.images[0].float()

    def correlation(state: torch.Tensor) -> float:
        pose = Rigid(world.poses(torch.zeros(1, dtype=torch.int64), state[None])[0])
        shown = project_mesh(exposures.meshes[0], view, pose.matrix[None])[0, 0]
        return float(np.corrcoef(shown.numpy().ravel(), image.numpy().ravel())[0, 1])

    here = correlation(end)
    for axis, step in ((0, 1.0), (1, 1.0), (2, 4.0)):
        for sign in (-1, 1):
            away = end.clone()
            away[axis] += sign * step
            assert correlation(away) < here


def test_depth_and_the_other_turns_are_held() -> None:
    """A model that is begun too near to the source ends as near as it was."""
    exposures = scene()
    shifted = exposures.base.clone()
    normal = World(exposures).frames[0, 2]
    shifted[0, :3, 3] -= 30 * normal
    world = World(Exposures(exposures.images, exposures.vectors, shifted, exposures.model, exposures.meshes, exposures.centres))
    end = silhouette_refined(world, 0, torch.tensor([2.0, 1.0, 2.0], dtype=torch.float64)).end
    pose = world.poses(torch.zeros(1, dtype=torch.int64), end[None])[0]
    centre = (pose[:3, :3] @ world.centres[0] + pose[:3, 3]) - (shifted[0, :3, :3] @ world.centres[0] + shifted[0, :3, 3])
    assert abs(float(centre @ normal)) < 1e-9
    turn = pose[:3, :3] @ shifted[0, :3, :3].T
    torch.testing.assert_close(turn @ normal, normal)
    assert float(end[:2].norm()) < 3


def test_the_same_start_gives_the_same_end() -> None:
    start = torch.tensor([4.0, 6.0, -5.0], dtype=torch.float64)
    one, two = (silhouetted(World(scene()), 0, start, replace(BOX, mm=5, degrees=5)).end for _ in range(2))
    assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SilhouetteConfig(voxel_mm=0), "positive"),
        (lambda: SilhouetteConfig(material="cheese"), "no material 'cheese'"),
        (
            lambda: silhouetted(World(scene()), 0, torch.tensor([900.0, 0, 0], dtype=torch.float64), BOX),
            "does not project onto the valid part",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(InputError, match=message):
        make()
