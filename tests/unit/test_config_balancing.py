"""DestinationRule's ways to pick one of several endpoints: what each becomes, and what is refused."""

import pytest
from config_texts import SERVICE, document, errors, load

from xds_server.mesh.policies import Balancer, Warmup


def rule(balancer: str) -> str:
    return document("DestinationRule", f"host: models\ntrafficPolicy:\n  loadBalancer: {balancer}")


@pytest.mark.parametrize(
    ("balancer", "warmup"),
    [
        ("{warmup: {duration: 1m30s}}", Warmup(90.0)),
        ("{warmup: {duration: 1s, minimumPercent: 0, aggression: 1}}", Warmup(1.0, 0, 1.0)),
        ("{warmup: {duration: 1s, minimumPercent: 100, aggression: 2.5}}", Warmup(1.0, 100, 2.5)),
        ("{warmupDurationSecs: 30s}", Warmup(30.0)),
        ("{simple: ROUND_ROBIN, warmupDurationSecs: 30s}", Warmup(30.0)),
        ("{simple: ROUND_ROBIN}", None),
    ],
)
def test_a_warmup_either_way_it_is_written(tmp_path, balancer, warmup):
    (policy,) = load(tmp_path, SERVICE, rule(balancer)).policies
    assert policy.warmup == warmup
    assert policy.balancer in (Balancer.LEAST_REQUEST, Balancer.ROUND_ROBIN)


@pytest.mark.parametrize(
    ("balancer", "error"),
    [
        (
            "{warmup: {duration: 1s}, warmupDurationSecs: 1s}",
            "warmupDurationSecs: found both; expected warmup or warmupDurationSecs",
        ),
        (
            "{simple: RANDOM, warmupDurationSecs: 1s}",
            "found one beside RANDOM; expected one beside LEAST_REQUEST or ROUND_ROBIN only",
        ),
        (
            "{warmup: {duration: 1s, aggression: 0.5}}",
            "warmup.aggression: found the number 0.5; expected a number from 1 to 1000",
        ),
        (
            "{warmup: {duration: 1s, aggression: true}}",
            "warmup.aggression: found true; expected a number from 1 to 1000",
        ),
        (
            "{warmup: {duration: 1s, minimumPercent: 101}}",
            "warmup.minimumPercent: found the number 101; expected an integer from 0 to 100",
        ),
    ],
)
def test_what_no_warmup_can_be(tmp_path, balancer, error):
    (line,) = errors(tmp_path, SERVICE, rule(balancer))
    assert "spec.trafficPolicy.loadBalancer.warmup" in line
    assert line.endswith(error)
