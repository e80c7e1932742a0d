"""Methods that learn, by name: what a name says, and what is made of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from raylign.errors import InputError
from raylign.methods.convex_similarity.registrar import ConvexSimilarity
from raylign.methods.named import LEARNED, Asked, Named, around, describe, digest, learned_registrar, parsed, weights_file
from raylign.methods.pose_regression.network import RegressionNetwork
from raylign.methods.pose_regression.registrar import PoseRegression
from raylign.methods.pose_regression.weights import Learned as Regressor
from raylign.registration import METHODS, Direct, Pipeline, SearchConfig
from tests.methods.test_convex_registrar import learned
from tests.methods.test_pose_regression import CUBE, DMW


def test_a_name_says_what_comes_after_and_whose_weights() -> None:
    name = LEARNED[0]
    assert parsed(name) == Named(name, "direct")
    assert parsed(f"{name}-alone") == Named(name, "")
    assert parsed(f"{name}-skipped") == Named(name, "direct", skipped=True)
    assert parsed(f"{name}+xreg-wide") == Named(name, "xreg-wide")
    assert parsed(f"{name}+cmaes@a+b/c.safetensors") == Named(name, "cmaes", Path("a+b/c.safetensors"))
    assert [parsed(other) for other in (*METHODS, "search+direct", "module:factory", f"{name}s", "")] == [None] * (
        len(METHODS) + 4
    )
    for unknown in ("contour", "nothing", ""):
        with pytest.raises(InputError, match=r"to go on with; use one of direct, direct\+polish, cmaes"):
            parsed(f"{name}+{unknown}")


def test_what_comes_after_looks_through_the_stated_box(tmp_path: Path) -> None:
    file = tmp_path / "some.safetensors"
    learned().save(file)
    search = SearchConfig(degrees=7.0)
    made = learned_registrar(Named(LEARNED[0], "direct", file), Asked(search, 5))
    assert isinstance(made, Pipeline)
    first, second = made.stages
    assert isinstance(first, ConvexSimilarity) and isinstance(second, Direct)
    assert second.config.search == search and second.config.seed == 5
    assert isinstance(learned_registrar(Named(LEARNED[0], "", file), Asked(search)), ConvexSimilarity)
    skipped = learned_registrar(Named(LEARNED[0], weights=file, skipped=True), Asked(search, 5))
    assert isinstance(skipped, Direct) and skipped.config == second.config


def test_weights_are_told_apart(tmp_path: Path) -> None:
    one, other = (Named(LEARNED[0], weights=tmp_path / n) for n in ("a", "b"))
    with pytest.raises(InputError, match="there are no weights"):
        weights_file(one)
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    assert weights_file(one) == tmp_path / "a"
    assert digest(one) != digest(other) and digest(one) == digest(Named(LEARNED[0], "", tmp_path / "a"))


def test_regressors_want_weights_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no weights come with this method"):
        weights_file(Named("pose-regression"))
    file = tmp_path / "regressor.safetensors"
    Regressor(RegressionNetwork(DMW, 32).eval(), CUBE).save(file)
    said = describe(file)
    assert (said.method, said.kind, said.phantom) == ("pose-regression", "DMW", "pelvis")
    made = learned_registrar(Named("pose-regression", "", file), Asked(SearchConfig()))
    assert isinstance(made, PoseRegression)
    with pytest.raises(InputError, match="not a convex-similarity"):
        learned_registrar(Named("convex-similarity", "", file), Asked(SearchConfig()))


def test_what_comes_after_looks_through_what_was_left_open_for_validation_patients(tmp_path: Path) -> None:
    file = tmp_path / "some.safetensors"
    named = Named(LEARNED[0], weights=file)

    def told(**left: object) -> SearchConfig:
        figures = {"validation": {f"open_{name}": value for name, value in left.items()}}
        replace(learned(), about={"figures": figures} if left else {}).save(file)
        return around(named)

    assert told() == SearchConfig()
    found = told(degrees=30.0, mm=60.0, depth=120.0)
    assert (found.degrees, found.mm, found.along, found.hypotheses) == (30.0, 60.0, 120.0, 270)
    found = told(degrees=3.0, mm=1000.0, depth=5.0)
    assert (found.degrees, found.mm, found.along, found.hypotheses) == (20.0, 200.0, 35.0, 125)
    for wrong in ("far", None, "nan"):
        with pytest.raises(InputError, match=r"some\.safetensors.*no number.*train it again"):
            told(degrees=30.0, mm=wrong, depth=120.0)
