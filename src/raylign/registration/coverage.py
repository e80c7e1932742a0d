"""Which pixels of a view a model answers for."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from raylign.data import Volume
from raylign.geometry import View
from raylign.geometry.view import require_cone
from raylign.registration.matching import answered
from raylign.registration.pyramid import content, model_pyramid, plain_level


def covered(model: Volume, view: View, pose: Float[Tensor, "4 4"]) -> Bool[Tensor, "H W"]:
    """Where a ray passes nothing but what the model holds: not through a face at which the patient was cut off.

    [H, W] of the view. The same rule as in the registration (``pyramid._faces``), looked up on a grid of about 4 mm.

    Raises
    ------
    InputError: the view's rays are parallel, or the model holds nothing but air.
    """
    require_cone(view, "coverage")
    level = model_pyramid(model, content(model), [4.0])[0]
    image = plain_level(view, np.ones(view.shape, np.bool_))
    return torch.from_numpy(answered(level, [image], torch.as_tensor(pose, dtype=torch.float64).numpy())[0])
