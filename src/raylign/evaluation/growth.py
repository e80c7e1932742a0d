"""Whether two runs are one, the second at most with more cases and methods: what ``run.json`` says is compared."""

from __future__ import annotations

from typing import Any

# what must be the same for a run to be gone on with, as the user calls it; cases and methods may become more
_SAME = {
    "protocol": "the protocol",
    "seed": "the seed",
    "cases": "the number of cases",
    "methods": "the methods",
    "versions": "the version of a package",
    "source": "the source of raylign",
    "data": "the folder of data",
    "weights": "the digest of weights",
}
_MAY_GROW = ("cases", "methods")


def difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """What differs between two runs that should be one, in words; None where nothing does.

    Machines may differ, and there may be more cases and methods now.
    """
    for key, name in _SAME.items():
        if key in _MAY_GROW and _within(before[key], now[key]):
            continue
        if key == "weights":
            for method in sorted(set(before["methods"]) & set(now["methods"])):
                a, b = (told.get(key, {}).get(method) for told in (before, now))
                if a != b:
                    return f"{name} was {_short(a)} and is {_short(b)} ({method})"
        elif key == "protocol":
            # the seed and so on are in it too, and are better told by themselves
            rest = [{k: v for k, v in told[key].items() if k not in ("seed", "cases", "methods")} for told in (before, now)]
            fields = [k for k in sorted({*rest[0], *rest[1]}) if rest[0].get(k) != rest[1].get(k)]
            if fields:
                return f"{name} differs in {', '.join(fields)}"
        elif key == "versions":
            for package in sorted({*before[key], *now[key]}):
                a, b = before[key].get(package), now[key].get(package)
                if a != b:
                    return f"{package} was {a} and is {b}"
        elif key == "data":
            found = _data_difference(before.get(key), now.get(key))
            if found:
                return found
        elif (before.get(key) or None) != (now.get(key) or None):
            return f"{name} was {_short(before.get(key))} and is {_short(now.get(key))}"
    return None


def _within(before: Any, now: Any) -> bool:
    return set(before) <= set(now) if isinstance(now, list) else bool(before <= now)


def grows(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether there are more cases or methods now."""
    return any(before[key] != now[key] for key in _MAY_GROW)


def _data_difference(before: dict[str, Any] | None, now: dict[str, Any] | None) -> str | None:
    if before is None or now is None:
        return None if before is now else "one is with a folder of data, the other without"
    a, b = (dict(map(tuple, told["entries"])) for told in (before, now))
    changed = [path for path in sorted({*a, *b}) if a.get(path) != b.get(path)]
    return f"the data differ in {changed[0]}" if changed else None


def _short(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)[:48]
