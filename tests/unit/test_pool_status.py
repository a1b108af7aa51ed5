"""What a ModelPool's status says: a function of its problems and of what each server wrote there."""

import pytest

from xds_server.config.pool_status import Seen, common_status
from xds_server.config.problems import Problem

GOOD = Seen(generation=2, endpoints=3, ready=3, models=5, known=7, telling=3, envoys=2, acknowledged=2)


def status(*entries, problems=()):
    return common_status(2, problems, [seen.entry(f"server-{i}") for i, seen in enumerate(entries)])


def conditions(*entries, problems=()):
    listed = status(*entries, problems=problems)["conditions"]
    assert {each["observedGeneration"] for each in listed} == {2}
    return {each["type"]: (each["status"], each["reason"], each["message"]) for each in listed}


def changed(**values):
    return Seen(**{name: getattr(GOOD, name) for name in Seen.__dataclass_fields__} | values)


def test_all_is_well():
    found = status(GOOD, GOOD)
    assert {name: value for name, value in found.items() if name != "conditions"} == {
        "observedGeneration": 2,
        "endpoints": 3,
        "readyEndpoints": 3,
        "models": 5,
        "knownModels": 7,
        "envoys": 4,
        "acknowledged": 4,
    }
    assert conditions(GOOD, GOOD) == {
        "Accepted": ("True", "Accepted", "the spec is in force"),
        "ModelsDiscovered": ("True", "Discovered", "3 of 3 endpoints tell their models"),
        "Programmed": ("True", "Programmed", "acknowledged by 4 of 4 Envoys"),
    }


def test_it_does_not_matter_which_server_works_it_out():
    one, other = GOOD.entry("a"), changed(models=4, envoys=0, acknowledged=0).entry("b")
    assert common_status(2, (), [one, other]) == common_status(2, (), [other, one])


def test_a_bad_spec_says_what_and_where():
    problems = [
        Problem("", 0, "ModelPool ml/a", "spec.host", "nothing", "a value, since the field is required"),
        Problem("", 0, "ModelPool ml/a", "spec.modles", "an unknown field", "host, models, onMiss"),
    ]
    assert conditions(changed(generation=1), problems=problems)["Accepted"] == (
        *("False", "Invalid"),
        (
            "spec.host: found nothing; expected a value, since the field is required; "
            "spec.modles: found an unknown field; expected host, models, onMiss"
        ),
    )


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([Seen()], ("Unknown", "NotInForce", "no spec of this pool is in force")),
        ([], ("Unknown", "NotInForce", "no spec of this pool is in force")),
        ([Seen(generation=1)], ("False", "NoEndpoints", "the service has no endpoint")),
        (
            [GOOD, changed(telling=1, failure="10.0.0.1:8080: refused")],
            ("False", "EndpointsSilent", "1 of 3 endpoints tell their models; 10.0.0.1:8080: refused"),
        ),
    ],
)
def test_models_discovered(entries, expected):
    assert conditions(*entries)["ModelsDiscovered"] == expected


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([changed(envoys=0)], ("False", "NoEnvoys", "no connected Envoy has been sent this pool")),
        ([GOOD, changed(acknowledged=1)], ("False", "Pending", "acknowledged by 3 of 4 Envoys")),
        (
            [GOOD, changed(acknowledged=1, rejection="gateway-2: bad regex")],
            ("False", "Rejected", "acknowledged by 3 of 4 Envoys; gateway-2: bad regex"),
        ),
    ],
)
def test_programmed(entries, expected):
    assert conditions(*entries)["Programmed"] == expected


def test_texts_of_others_are_bounded():
    assert len(changed(rejection="x" * 100_000).entry("a")["rejection"]) == 2048
    many = [Problem("", 0, "", f"spec.{i}", "x" * 80, "y") for i in range(2000)]
    assert len(conditions(problems=many)["Accepted"][2]) == 4096
