"""The table of causes is complete and in line with the public codes."""

import pytest

from ridges.contracts.faults import RULES, Cause, Fault, counts_against_agent


@pytest.mark.parametrize("cause", Cause)
def test_every_cause_has_a_rule_with_a_meaning(cause):
    rule = RULES[cause]
    assert rule.meaning
    assert rule.meaning[0].islower()


@pytest.mark.parametrize("cause", Cause)
def test_only_faults_of_the_agent_have_a_code_in_the_thousands(cause):
    rule = RULES[cause]
    if rule.code is not None:
        assert (1000 <= rule.code < 2000) == (rule.fault is Fault.AGENT)


@pytest.mark.parametrize("cause", Cause)
def test_the_agent_pays_for_its_own_faults_and_never_for_ours(cause):
    rule = RULES[cause]
    assert counts_against_agent(cause) == (rule.fault is Fault.AGENT)
    if rule.fault in (Fault.PLATFORM, Fault.EVALUATOR, Fault.PROVIDER):
        assert not rule.charged
    if rule.fault is Fault.AGENT:
        assert rule.charged
        assert not rule.retry


def test_the_five_restarts_have_their_own_codes():
    lost = [RULES[cause].code for cause in Cause if cause.startswith("lost_while_")]
    assert lost == [3000, 3010, 3020, 3030, 3040]
