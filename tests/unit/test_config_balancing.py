"""DestinationRule's ways to pick one of several endpoints: what each becomes, and what is refused."""

import pytest
from config_texts import SERVICE, document, errors, load, pool

from xds_server.mesh.policies import Balancer, ConsistentHash, HashTable, Warmup


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


@pytest.mark.parametrize(
    ("balancer", "hashed"),
    [
        ("{consistentHash: {httpHeaderName: X-Session}}", ConsistentHash("x-session")),
        (
            "{consistentHash: {httpHeaderName: s, minimumRingSize: 64}}",
            ConsistentHash("s", HashTable.RING_HASH, 64),
        ),
        ("{consistentHash: {httpHeaderName: s, ringHash: {}}}", ConsistentHash("s")),
        (
            "{consistentHash: {httpHeaderName: s, ringHash: {minimumRingSize: 16384}}}",
            ConsistentHash("s", HashTable.RING_HASH, 16384),
        ),
        ("{consistentHash: {httpHeaderName: s, maglev: {}}}", ConsistentHash("s", HashTable.MAGLEV)),
        (
            "{consistentHash: {httpHeaderName: s, maglev: {tableSize: 1021}}}",
            ConsistentHash("s", HashTable.MAGLEV, 1021),
        ),
    ],
)
def test_a_consistent_hash_with_either_table(tmp_path, balancer, hashed):
    (policy,) = load(tmp_path, SERVICE, rule(balancer)).policies
    assert policy.consistent_hash == hashed


PRIME = "expected a prime number up to 65537"


@pytest.mark.parametrize(
    ("balancer", "error"),
    [
        (
            "{simple: RANDOM, consistentHash: {httpHeaderName: s}}",
            "found both; expected simple or consistentHash",
        ),
        (
            "{warmup: {duration: 1s}, consistentHash: {httpHeaderName: s}}",
            "found one beside consistentHash; expected one beside LEAST_REQUEST or ROUND_ROBIN only",
        ),
        ("{consistentHash: {httpHeaderName: s, maglev: {tableSize: 1024}}}", PRIME),
        ("{consistentHash: {httpHeaderName: s, maglev: {tableSize: 65539}}}", PRIME),
        (
            "{consistentHash: {httpHeaderName: s, ringHash: {minimumRingSize: 16385}}}",
            "found the number 16385; expected an integer from 1 to 16384",
        ),
        (
            "{consistentHash: {httpHeaderName: s, ringHash: {}, maglev: {}}}",
            "found ringHash and maglev; expected one of minimumRingSize, ringHash and maglev",
        ),
        (
            "{localityLbSetting: {failover: []}}",
            "Setting.failover: found a field of Istio's that is not supported here; expected enabled",
        ),
        (
            "{localityLbSetting: {failoverPriority: []}}",
            "failoverPriority: found a field of Istio's that is not supported here; expected enabled",
        ),
        (
            "{localityLbSetting: {enabled: sometimes}}",
            'localityLbSetting.enabled: found "sometimes"; expected true or false',
        ),
        (
            "{consistentHash: {httpHeaderName: s}, localityLbSetting: {}}",
            "RANDOM or ROUND_ROBIN only, since Envoy's hash tables know no zones",
        ),
        (
            "{consistentHash: {httpHeaderName: s, httpCookie: {}}}",
            "not supported here; expected httpHeaderName, maglev, minimumRingSize or ringHash",
        ),
    ],
)
def test_what_is_no_way_to_pick(tmp_path, balancer, error):
    (line,) = errors(tmp_path, SERVICE, rule(balancer))
    assert line.endswith(error)


@pytest.mark.parametrize(
    ("balancer", "first"),
    [
        ("{localityLbSetting: {enabled: true}}", True),
        ("{localityLbSetting: {}}", True),
        ("{localityLbSetting: {enabled: false}}", False),
        ("{localityLbSetting: {enabled: false}, consistentHash: {httpHeaderName: s}}", False),
        ("{localityLbSetting: {enabled: true}, simple: RANDOM}", True),
        ("{localityLbSetting: {enabled: true}, warmup: {duration: 1s}}", True),
        ("{simple: RANDOM}", False),
    ],
)
def test_the_own_zone_comes_first_where_a_rule_says_so(tmp_path, balancer, first):
    (policy,) = load(tmp_path, SERVICE, rule(balancer)).policies
    assert policy.own_zone_first is first
    assert ("own zone first" in policy.pick) is first


FEW = {f"m{number}" for number in range(50)}


def static(names: set[str], more: str = "") -> str:
    return f"{{static: {{'10.0.0.1:9001': [{', '.join(sorted(names))}]}}{more}}}"


@pytest.mark.parametrize(
    ("models", "layout", "more", "found"),
    [
        ("{openInference: {}}", "{type: perModel}", "", None),
        (static(FEW), "{type: single}", "", None),
        (static(FEW | {"one-more"}), "{type: perModel}", "", None),
        ("{openInference: {}}", "{}", "", "layout auto"),
        ("{openInference: {}}", "{type: sharded}", "", "layout sharded"),
        (static(FEW), "{type: auto}", "", "layout auto"),
        ("{openInference: {}}", "{type: single}", "", "layout single, and models that are discovered"),
        (static(FEW | {"one-more"}), "{type: single}", "", "layout single, and 51 names of models"),
        (static(FEW, ", aliases: {a: m1}"), "{type: single}", "", "layout single, and 51 names of models"),
        (
            "{openInference: {}}",
            "{type: perModel}",
            "onMiss: {notLoaded: FALLBACK_MODEL, fallbackModel: m}",
            "one cluster for the pool, since a model that nobody has falls back to another",
        ),
        (
            static(FEW),
            "{type: perModel}",
            "onMiss: {notLoaded: FALLBACK_MODEL, fallbackModel: m1}",
            None,
        ),
    ],
)
def test_a_hash_needs_few_models_in_a_cluster_for_certain(tmp_path, models, layout, more, found):
    documents = (
        SERVICE,
        rule("{consistentHash: {httpHeaderName: s}}"),
        pool(f"host: models\nmodels: {models}\nlayout: {layout}\n{more}"),
    )
    if found is None:
        assert load(tmp_path, *documents).pools
        return
    (line,) = errors(tmp_path, *documents)
    assert f"spec.layout.type: found {found}" in line
    assert "while DestinationRule ml/models has consistentHash; expected perModel, or single and at" in line
