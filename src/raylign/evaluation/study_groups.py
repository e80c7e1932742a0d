"""Whose cases go wrong, and from which starts: a method that fails on one patient in four looks like one that fails at times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raylign.evaluation import statistics as st
from raylign.evaluation.markup import Markup, section, table
from raylign.evaluation.record import Record
from raylign.evaluation.scores import Scores
from raylign.evaluation.study_content import Study
from raylign.evaluation.study_sections import mm, share

_MOST = 12  # subjects that have a row of their own: the worst


def groups(study: Study) -> Markup:
    """The section; nothing where there is one subject and one kind of start."""
    kinds = list(dict.fromkeys(name for name, _ in study.protocol.start_kinds))
    subjects = {r.subject for s in study.methods for r in s.records}
    if len(subjects) < 2 and len(kinds) < 2:
        return Markup("")
    limit = study.protocol.success_mm
    head = ("Subject", "Cases", f"< {limit:g} mm, %", "Median, mm", "Trusted, %", *(kinds if len(kinds) > 1 else ()))
    tables = [table(head, _rows(s, study, kinds), f"{s.method}, by subject") for s in study.methods]
    of_kinds = f" Columns at the right: the share under {limit:g} mm by kind of start." if len(kinds) > 1 else ""
    return section(
        "subjects",
        "Subjects and starts",
        f"<p>Shares under {limit:g} mm {study.criterion}, the worst subject first.{of_kinds}</p>",
        *tables,
    )


def by_subject(s: Scores, study: Study) -> dict[str, list[Record]]:
    """The records of each subject, the subject with the least success first, of equals the one with the larger median."""
    found: dict[str, list[Record]] = {}
    for r in s.records:
        found.setdefault(r.subject, []).append(r)
    ends = {name: st.errors_of([getattr(r, study.protocol.criterion) for r in own]) for name, own in found.items()}
    limit = study.protocol.success_mm
    ranked = sorted(found, key=lambda n: (st.success(ends[n], limit), -st.percentile(ends[n], 50), n))
    return {name: found[name] for name in ranked}


def _rows(s: Scores, study: Study, kinds: Sequence[str]) -> list[tuple[str, ...]]:
    found = by_subject(s, study)
    # one more row would say as much as the sum of one
    shown = list(found) if len(found) <= _MOST + 1 else list(found)[:_MOST]
    parts: Mapping[str, list[Record]] = {name: found[name] for name in shown}
    rows = [_row(name, records, study, kinds) for name, records in parts.items()]
    others = [r for name, records in found.items() if name not in parts for r in records]
    if others:
        rows.append(_row(f"{len(found) - len(parts)} others", others, study, kinds))
    if len(found) > 1:
        rows.append(_row("all", list(s.records), study, kinds))
    return rows


def _row(name: str, records: Sequence[Record], study: Study, kinds: Sequence[str]) -> tuple[str, ...]:
    protocol = study.protocol
    ends = st.errors_of([getattr(r, protocol.criterion) for r in records])
    right: dict[str, list[bool]] = {kind: [] for kind in kinds}
    for r, end in zip(records, ends.tolist(), strict=True):
        right[protocol.start_kind(r.case)].append(end < protocol.success_mm)
    split = [share(sum(own) / len(own)) if own else "–" for own in right.values()] if len(kinds) > 1 else []
    return (
        name or "not known",
        str(len(records)),
        share(st.success(ends, protocol.success_mm)),
        mm(st.percentile(ends, 50)),
        share(sum(r.trusted for r in records) / len(records)),
        *split,
    )
