"""Whether the structures that a protocol names are there: asked before a run begins, not case by case after it."""

from __future__ import annotations

from pathlib import Path

from raylign.evaluation.protocol import Protocol
from raylign.evaluation.subject_kinds import DeepFluoro, Phantoms, Scans


def check_names(protocol: Protocol, data: Path | None) -> None:
    """Make a patient of each kind of body, and of each scan, of whom the protocol names landmarks, labels or files of labels.

    Where it names none there is nothing that could be misspelt, and nobody is made. The last three made are kept for the cases.

    Raises
    ------
    InputError: a structure that a patient has not, a file that is not there or that cannot be read.
    """
    from raylign.evaluation.cases import case_count, make_case
    from raylign.evaluation.subjects import patient

    kind = protocol.subjects
    if isinstance(kind, DeepFluoro):
        if kind.labels:
            make_case(protocol, 0, data=data)
        return
    if not isinstance(kind, Phantoms | Scans):
        return
    exposures = -(-case_count(protocol, data) // (len(protocol.arms) * protocol.repeats))
    people = -(-exposures // protocol.per_subject)
    for number in reversed(range(min(people, _different(kind)))):  # the first is kept for the first case
        scan = kind.scans[number] if isinstance(kind, Scans) else None
        usual = kind.isocentre if isinstance(kind, Phantoms) else kind.scans[number].isocentre
        if protocol.points.structures or usual != ("centre",) or (scan is not None and scan.labels is not None):
            patient(kind, protocol.points.wanted, number, protocol.seed, data)


def _different(kind: Phantoms | Scans) -> int:
    return min(len(kind.bodies), kind.people) if isinstance(kind, Phantoms) else len(kind.scans)
