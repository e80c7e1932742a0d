"""What making cases costs: CPU seconds of the first case of a patient, of another exposure of his, and of another start or arm.

``python benchmarks/protocol_cases.py [--data FOLDER] [--protocols NAME,...] [--json]``

Kernels are compiled before: each protocol's first case is made once and forgotten. Protocols whose data are not there are left
out.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from raylign.errors import InputError
from raylign.evaluation import cases, subjects
from raylign.evaluation.cases import case_count, make_case
from raylign.evaluation.protocol import load_protocol, shipped
from raylign.registration.versions import versions


def measured(name: str, data: Path) -> dict[str, Any] | None:
    """The row of a protocol."""
    protocol = load_protocol(name)
    try:
        count = case_count(protocol, data)
    except InputError:
        return None
    each = len(protocol.arms) * protocol.repeats  # cases of one exposure
    make_case(protocol, 0, None, data)
    subjects._patients.clear()
    cases._last.clear()
    cpu = {}
    for what, index in (("patient", 0), ("start_or_arm", 1 if each > 1 else None), ("exposure", each)):
        if index is None or (what == "exposure" and protocol.per_subject == 1):
            continue
        begun = time.process_time()
        make_case(protocol, index, None, data)
        cpu[what] = time.process_time() - begun
    return {"protocol": name, "cases": count, **cpu}


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--protocols", default=",".join(shipped()))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows = [row for name in given.protocols.split(",") if (row := measured(name, given.data)) is not None]
    if given.json:
        print(json.dumps({"rows": rows, "versions": versions()}, indent=1))
        return
    print(f"{'CPU seconds':26s} {'cases':>6s} {'new patient':>12s} {'exposure':>9s} {'start or arm':>13s}")
    for row in rows:
        told = [f"{row[k]:.2f}" if k in row else "" for k in ("patient", "exposure", "start_or_arm")]
        print(f"{row['protocol']:26s} {row['cases']:6d} {told[0]:>12s} {told[1]:>9s} {told[2]:>13s}")


if __name__ == "__main__":
    main()
