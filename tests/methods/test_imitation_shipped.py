"""The agent that comes with raylign, on a patient whom neither its training nor its validation nor its test has seen."""

from __future__ import annotations

import pytest
import torch

from raylign.methods.imitation_agent.domain import domain_of
from raylign.methods.imitation_agent.mdp import cross_error
from raylign.methods.imitation_agent.pool import PoolConfig, as_exposures, make_patient
from raylign.methods.imitation_agent.registrar import shipped
from raylign.methods.imitation_agent.rollout import walk
from raylign.methods.imitation_agent.training import StatesConfig
from raylign.methods.imitation_agent.trust import about, agreed
from raylign.methods.imitation_agent.world import World
from raylign.simulation.seeds import generator
from tests.methods.test_shipped import STRANGER


def test_it_finds_a_strangers_ventricle() -> None:
    agent = shipped()
    measured = domain_of(agent.about)
    # the figures of the paper are the least that is asked: 2.92 mm in the mean, 2.34 degrees
    world = World(as_exposures(make_patient(PoolConfig(test_exposures=2), STRANGER, 2)), agent.world)
    starts = StatesConfig().draw(8, generator(0, STRANGER))
    which = torch.arange(8) % 2
    found = walk(agent, world, which, starts, measured.rollout)
    errors = cross_error(found.ends)
    assert cross_error(starts).mean() > 15
    assert errors.mean() < 2.9
    assert (errors < cross_error(starts)).all()
    assert found.ends[:, 2].abs().mean() < 2.34
    middle, spread = agreed(walk(agent, world, which[:1].repeat(5), about(starts[0], 5), measured.rollout).ends)
    assert cross_error(middle[None]) < 2.9
    assert agent.agreement is not None
    assert agent.agreement.probability(float(spread)) == pytest.approx(1.0, abs=0.2)
