"""The words and tables of an evaluation's report, a function a section."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import Any

from raylign.evaluation import charts
from raylign.evaluation.markup import Markup, code, number, pairs, section, table, text
from raylign.evaluation.protocol import shipped
from raylign.evaluation.replay import replay_command
from raylign.evaluation.scores import SILENT_MM
from raylign.evaluation.study_content import CRITERIA, Study
from raylign.evaluation.table import ALWAYS_MM, success_name, thresholds


def share(value: float, digits: int = 0) -> str:
    """A share (0 to 1) per cent; not rounded to all or none where it is not."""
    if math.isnan(value):
        return "–"
    if 0 < value < 1 and round(100 * value, digits) in (0, 100):
        digits = 1 if 0.0005 < value < 0.9995 else 2
    return f"{100 * value:.{digits}f}"


def mm(value: float, digits: int = 2) -> str:
    """A number, mostly of mm; "infinite" where cases without a result make it so, a dash where it is not defined."""
    return "–" if math.isnan(value) else "infinite" if math.isinf(value) else number(value, digits)


def between(row: Mapping[str, Any], name: str, *, shares: bool = False) -> Markup:
    """A number with its interval below it."""
    said = share if shares else mm
    low, high = (said(row[f"{name}_{end}"]) for end in ("low", "high"))
    return Markup(f"{text(said(row[name]))}<small>{text(low)} to {text(high)}</small>")


def headline(study: Study) -> Markup:
    """What was measured, in two sentences, and the figures that matter most."""
    protocol, methods = study.protocol, study.methods
    if not methods:
        return Markup('<div class="verdict bad"><p class="says">There are no records yet.</p></div>')
    everything = [s for s in study.scores if not s.nothing]
    silent, without = sum(len(s.silent) for s in everything), sum(s.without for s in everything)
    best = max(methods, key=lambda s: (study.of(s)[success_name(protocol.success_mm)], -study.of(s)["median"]))
    r = study.of(best)
    name = success_name(protocol.success_mm)
    subjects = r["subjects"]
    says = (
        f"{best.method}: {share(r[name])} % under {protocol.success_mm:g} mm {study.criterion} "
        f"(95 % interval {share(r[f'{name}_low'])} to {share(r[f'{name}_high'])}), median {mm(r['median'])} mm, "
        f"over {r['n']} cases of {subjects} {'subjects' if subjects != 1 else 'subject'}."
    )
    if len(methods) > 1:
        says = f"Best of {len(methods)} methods is {says}"
    several = ", all arms together" if len(study.arms) > 1 else ""
    trusted = sum(r.trusted for s in everything for r in s.records)
    # that nothing was wrong in silence is good news only of a method that trusted something and broke off nowhere
    kind = "bad" if silent else "ok" if trusted and not without else "neutral"
    chip = f"{silent} silent failure{'s' if silent > 1 else ''}{several}" if silent else "No silent failure"
    if kind == "neutral":
        chip += ", and nothing was trusted" if not trusted else f"; {without} without a result"
    icon = '<path d="M5 12.5l4.5 4.5L19 7.5"/>' if kind == "ok" else '<path d="M12 4v10M12 18.5v1"/>'
    facts = [
        ("Registrations", str(sum(len(s.records) for s in everything))),
        ("Without a result", str(without)),
        (f"Start, median {study.criterion}", f"{mm(r['start_median'], 1)} mm"),
        ("Seed", str(study.run.get("seed", protocol.seed))),
        ("Commit", str(study.run.get("commit") or "not known")[:12]),
        ("Machine", f"{study.run.get('machine', {}).get('cores', '?')} cores"),
    ]
    tiles = "".join(f"<div><dt>{text(k)}</dt><dd>{text(v)}</dd></div>" for k, v in facts)
    drawn = f'<svg viewBox="0 0 24 24" aria-hidden="true">{icon}</svg>'
    return Markup(
        f'<div class="verdict {kind}"><p class="chip">{drawn}{text(chip)}</p>'
        f'<p class="says">{text(says)}</p><p>{text(protocol.source)}</p><dl class="facts">{tiles}</dl></div>'
    )


def _mean(row: Mapping[str, Any]) -> Markup:
    if math.isinf(row["mean"]):
        there = row["n"] - row["no_result"]
        return Markup(f"infinite<small>{text(mm(row['mean_of_results']))} of {there}</small>")
    return Markup(f"{text(mm(row['mean']))}<small>sd {text(mm(row['sd']))}</small>")


def summary(study: Study) -> Markup:
    """The tables of accuracy and of trust and cost."""
    other = next(k for k in CRITERIA if k != study.protocol.criterion)
    limits = [t for t in thresholds(study.protocol) if t in (*ALWAYS_MM, study.protocol.success_mm)]
    rows, costs = [], []
    seconds = {(t["arm"], t["method"]): t for t in study.times}
    for s in study.usual:
        r = study.of(s)
        rows.append(
            (
                s.method,
                str(r["n"]),
                *(between(r, success_name(t), shares=True) for t in limits),
                between(r, "median"),
                f"{mm(r['p5'])} / {mm(r['p95'])}",
                _mean(r),
                mm(r[f"{other}_median"]),
                mm(r["capture_range_mm"], 0),
            )
        )
        if s.nothing:
            continue
        spent = seconds[s.arm, s.method]
        costs.append(
            (
                s.method,
                str(r["no_result"]),
                f"{r['trusted']} of {r['n']}",
                str(r["silent_failures"]),
                mm(r["auroc"], 3),
                mm(r["ece"], 3),
                mm(r["renders_median"], 0),
                f"{mm(spent['register_median'])} / {mm(spent['register_p95'])}",
                mm(spent["cpu_median"]),
            )
        )
    head = ["Method", "Cases", *(f"< {t:g} mm, %" for t in limits), "Median, mm", "5th / 95th pct.", "Mean, mm"]
    head += [f"{CRITERIA[other]} median", "Capture range, mm"]
    whole = "; the undisturbed arm" if len(study.arms) > 1 else ""
    return section(
        "summary",
        "Summary",
        f"<p>Errors are {study.criterion}{whole}. Small print: 95 % intervals by resampling subjects, no narrower than over "
        "cases. A registration without a result counts as infinitely wrong; below an infinite mean stands that of the results "
        "there are. “start” is no registration at all. Capture range: largest starting mTRE up to which every bin keeps "
        f"{share(study.protocol.capture_share)} % under {study.protocol.success_mm:g} mm; bins without a start are passed "
        "over.</p>",
        _unbinned(study),
        table(head, rows, "Accuracy"),
        table(
            ("Method", "No result", "Trusted", "Silent failures", "AUROC", "ECE", "Renders", "Seconds, median / 95th", "CPU s"),
            costs,
            "Trust and cost",
        ),
        f'<p class="key">Silent failure: wrong by more than {SILENT_MM:g} mm (mTRE) and called trustworthy. AUROC: how well the '
        "reported probability tells failures; ECE: how far it is from what came true. Seconds are of the registration, with "
        "whatever else ran on the machine.</p>",
    )


def _unbinned(study: Study) -> Markup:
    """What the capture range leaves out, where it leaves out anything."""
    said = []
    for s in study.methods:
        lost = sum(r.start_mtre is None for r in s.records)
        if count := s.unbinned(study.protocol):
            why = f" (of {lost} no start is known: the case was not made)" if lost else ""
            said.append(f"{s.method} {count} of {len(s.records)}{why}")
    if not said:
        return Markup("")
    return Markup(
        f"<p>In no bin: {text('; '.join(said))}. Starts from the centre or from nothing are in none, nor is a method that takes "
        "no note of the start.</p>"
    )


def times(study: Study) -> Markup:
    """Seconds by method: making cases, registering, processor time."""
    if not study.times:
        return Markup("")
    several = len(study.arms) > 1
    rows = [
        (
            f"{t['method']}, {t['arm']}" if several else t["method"],
            str(t["n"]),
            *(f"{mm(t[f'{k}_median'])} / {mm(t[f'{k}_p95'])}" for k in ("make", "register", "cpu")),
            mm(t["register_sum"], 0),
            mm(t["cpu_sum"], 0),
        )
        for t in study.times
    ]
    warm = sum(t["warm_sum"] for t in study.times)
    usual = [(t["method"], t["cpu_median"]) for t in study.times if t["arm"] == study.usual[0].arm]
    return section(
        "times",
        "Time",
        f"<p>Median and 95th percentile of a case; the exposures are made once a case and counted with its first method. Loading "
        f"or compiling kernels took {number(warm, 1)} s in all workers together and is in none of these.</p>",
        table(("Method", "n", "Make, s", "Register, s", "CPU, s", "Register, sum", "CPU, sum"), rows, "Seconds"),
        charts.bars(usual, "s", "Processor seconds of a registration, median: " + ", ".join(f"{k} {v:.2f}" for k, v in usual))
        if all(math.isfinite(v) for _, v in usual)
        else "",
    )


def failures(study: Study, most: int = 30) -> Markup:
    """What gave no result, and what it broke off with."""
    broken = [r for r in study.records if r.mtre is None]
    if not broken:
        return Markup("")
    rows = [(f"{r.case}: {r.name}", r.method, r.failure, replay_command(study.run, study.out, r.case, r.method)) for r in broken]
    more = f"<p>{len(broken) - most} more are in records.jsonl.</p>" if len(broken) > most else ""
    head = ("Case", "Method", "Broke off with", "To see it again")
    return section("failures", "No result", table(head, rows[:most], "Registrations without a result", numeric=False), more)


def command(study: Study) -> str:
    """The command that runs the whole again."""
    protocol = study.protocol
    words = ["raylign", "evaluate", protocol.name if protocol.name in shipped() else f"{protocol.name}.yaml"]
    for method in protocol.methods:
        words += ["--method", method]
    words += ["--cases", str(protocol.cases), "--seed", str(protocol.seed)]
    words += [] if study.data is None else ["--data", str(study.data)]
    return shlex.join([*words, "-o", str(study.out)])


def again(study: Study) -> Markup:
    """The protocol, and with what it was run."""
    run = study.run
    about = {"Protocol": study.protocol.name, "Source": study.protocol.source, "What it measures": study.protocol.description}
    versions = pairs(run["versions"], ("Package", "Version"), "Versions") if run.get("versions") else ""
    machine = {k: str(v) for k, v in (run.get("machine") or {}).items()}
    where = {
        "Seed": str(run.get("seed", study.protocol.seed)),
        "Cases": str(run.get("cases", len({r.case for r in study.records}))),
        "Commit of raylign": str(run.get("commit") or "not known"),
        "Workers": str(run.get("workers", "not known")),
        "Data": str(study.data or "none needed"),
        **{"Memory, GB" if k == "memory_gb" else k.capitalize(): v for k, v in machine.items()},
    }
    whole = {
        k: v for k, v in study.protocol.model_dump(mode="json").items() if k not in ("name", "title", "source", "description")
    }
    return section(
        "again",
        "How it was run",
        pairs({k: v for k, v in about.items() if v}, ("Protocol", "What it is"), "What was measured"),
        "<h3>Command</h3>" + code(command(study), "command"),
        f'<div class="two">{pairs(where, ("Run", "Value"), "Run and machine")}{versions}</div>',
        pairs(whole, ("Field", "Value"), "The protocol in full"),
    )
