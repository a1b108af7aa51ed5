"""The bodies of inference requests and answers: the two forms of an Open Inference (KServe V2) tensor.

A V2 REST tensor carries its values in `data`; the protobuf message written as JSON carries them in
`contents.fp32_contents`. What may not live here: sockets, models.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

DOCUMENTS = resources.files("xds_server.demo") / "documents"
"""The documents that the demo uses as they are."""

SEED_REQUEST = "infer-payload.json"
"""One digit of MNIST as the well-known walk-through sends it, in the protobuf-JSON form."""

CONTENTS = ("fp32_contents", "fp64_contents", "int64_contents", "int_contents", "fp32Contents")
"""Where the protobuf-JSON form may hold numbers, camel case as protobuf's own JSON writes it."""


class BadPayloadError(ValueError):
    """A request body that is not a V2 inference request with one tensor of numbers; the text says why."""


def seed_request() -> bytes:
    """The seed's request, byte for byte."""
    return (DOCUMENTS / SEED_REQUEST).read_bytes()


def read_tensor(body: bytes) -> tuple[list[int], list[float]]:
    """Shape and flat values of the first input of a request in either form.

    Raises:
        BadPayloadError: with what was found and what is expected.
    """
    try:
        document = json.loads(body)
        tensor = document["inputs"][0]
        shape = [int(length) for length in tensor["shape"]]
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise BadPayloadError(f"expected a V2 inference request with inputs[0].shape: {error!r}") from error
    if "data" in tensor:
        return shape, _flat(tensor["data"])
    contents = tensor.get("contents", {})
    found = next((contents[key] for key in CONTENTS if key in contents), None)
    if found is None:
        raise BadPayloadError(
            f"inputs[0] has neither `data` nor `contents` with one of {', '.join(CONTENTS)}; "
            f"found {', '.join(sorted(tensor))}"
        )
    return shape, _flat(found)


def _flat(values: Any) -> list[float]:
    if not isinstance(values, list):
        raise BadPayloadError(f"expected a list of numbers, found {type(values).__name__}")
    if values and isinstance(values[0], list):
        return [number for row in values for number in _flat(row)]
    return values


def as_rest(body: bytes) -> bytes:
    """The same request in the V2 REST form (`data`), which every REST server of the protocol takes."""
    document = json.loads(body)
    shape, values = read_tensor(body)
    first = document["inputs"][0]
    tensor = {"name": first["name"], "shape": shape, "datatype": first["datatype"], "data": values}
    return json.dumps({"inputs": [tensor]}).encode()


def read_digit(body: bytes) -> int:
    """The digit in an answer.

    Raises:
        BadPayloadError: the answer has no output `predict` with a value.
    """
    try:
        outputs = json.loads(body)["outputs"]
        predicted = next(output for output in outputs if output["name"] == "predict")
        return int(predicted["data"][0])
    except (ValueError, TypeError, KeyError, IndexError, StopIteration) as error:
        raise BadPayloadError(
            f"expected an answer with the output `predict`, found {body[:200]!r}"
        ) from error


def answer(model: str, digit: int, probabilities: list[float] | None) -> dict[str, Any]:
    """A V2 REST answer."""
    outputs: list[dict[str, Any]] = [
        {"name": "predict", "shape": [1, 1], "datatype": "INT64", "data": [digit]}
    ]
    if probabilities is not None:
        outputs.append(
            {
                "name": "predict_proba",
                "shape": [1, len(probabilities)],
                "datatype": "FP64",
                "data": probabilities,
            }
        )
    return {"model_name": model, "model_version": "v1", "outputs": outputs}
