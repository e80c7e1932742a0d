"""How similarities follow the distance of poses: the learned one and gradient NCC, held-out made pelves (Gao et al., Fig. 6).

    python benchmarks/convex_landscape.py --weights FILE --pool DIR [--poses 40] [--json FILE]

Of every exposure of the weights' test patients (``--pool``: that of their training) so many poses are drawn by the law of moving
poses, and as many by that of starts. At each the learned similarity, and the negative of gradient NCC and of patch gradient NCC
of the projected bones with the exposure as it was made, at the network's resolution. Printed: Pearson's correlation with the
geodesic distance over all pairs of a law and of both; the same within each exposure, as its mean; and how often the pose nearer
to the truth of two has the smaller value.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from raylign.methods.convex_similarity.training import SimilarityTraining, TrainingConfig
from raylign.methods.convex_similarity.weights import read_learned
from raylign.methods.geodesic import squared
from raylign.methods.looks import shadows
from raylign.methods.pairs import Laws, make_pairs
from raylign.methods.patients import SIDE
from raylign.similarity import gradient_ncc, patch_gradient_ncc
from raylign.simulation.datasets.typed import typed
from raylign.simulation.seeds import generator


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--poses", type=int, default=40)
    parser.add_argument("--json", type=Path)
    said = parser.parse_args()
    learned = read_learned(said.weights)
    settings = typed(TrainingConfig, learned.about["settings"], "settings", said.weights)
    task = SimilarityTraining(settings, int(learned.about["seed"]), said.pool)
    task.pool.make(("test",))
    laws = {"moving poses": settings.moving, "starts": settings.start}
    values: dict[str, dict[str, list[Tensor]]] = {
        law: {name: [] for name in ("distance", "learned", "gradient NCC", "patch gradient NCC")} for law in laws
    }
    similarity, n = learned.similarity, settings.cube.pixels
    for number, patient in enumerate(task.patients("test")):
        with torch.no_grad():
            channels = learned.network.expanded(patient.cube)
        for exposure in range(len(patient.images)):
            which = torch.full((said.poses,), exposure)
            block = SIDE // n
            fixed = torch.nn.functional.avg_pool2d(patient.images[exposure][None], block).expand(said.poses, n, n)
            for place, (law, name) in enumerate(laws.items()):
                pairs = make_pairs(patient, which, Laws(name, "plain", n), generator(20261122, number, exposure, place))
                found = values[law]
                with torch.no_grad():
                    found["learned"].append(similarity.of(channels, pairs.looks, pairs.moving))
                    shown = shadows(patient.cube[None], pairs.looks, pairs.moving, settings.cube)[:, 0]
                    found["gradient NCC"].append(-gradient_ncc(shown, fixed))
                    found["patch gradient NCC"].append(-patch_gradient_ncc(shown, fixed))
                found["distance"].append(squared(pairs.moving, pairs.truth, settings.cube.unit_mm).sqrt())
    out: dict[str, dict[str, tuple[float, float, float]]] = {}
    both = {name: values["moving poses"][name] + values["starts"][name] for name in values["starts"]}
    print(f"{len(both['distance']) // 2} exposures, {said.poses} poses of each law\n")
    print("| law | similarity | correlation over all | within an exposure, mean | pairs in the right order, % |")
    print("|---|---|---|---|---|")
    for law, found in {**values, "both": both}.items():
        distance = torch.stack(found["distance"]).to(torch.float64)
        for name in ("learned", "gradient NCC", "patch gradient NCC"):
            value = torch.stack(found[name]).to(torch.float64)
            whole = float(torch.corrcoef(torch.stack([value.flatten(), distance.flatten()]))[0, 1])
            each = [torch.corrcoef(torch.stack([v, d]))[0, 1] for v, d in zip(value, distance, strict=True) if v.std() > 0]
            right = (value[:, :, None] < value[:, None]) == (distance[:, :, None] < distance[:, None])
            apart = ~torch.eye(said.poses, dtype=torch.bool)
            figures = (whole, float(torch.stack(each).mean()), 100 * float(right[:, apart].double().mean()))
            out.setdefault(law, {})[name] = figures
            print(f"| {law} | {name} | {figures[0]:.2f} | {figures[1]:.2f} | {figures[2]:.0f} |")
    if said.json:
        said.json.write_text(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
