from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xds_server.demo.payload import (
    CONTENTS,
    BadPayloadError,
    answer,
    as_rest,
    read_digit,
    read_tensor,
    seed_request,
)

numbers = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20)


def tensor(**fields):
    return json.dumps({"inputs": [{"name": "inputs", "datatype": "FP32", **fields}]}).encode()


@given(numbers, st.sampled_from(CONTENTS))
def test_both_forms_are_read_alike(values, key):
    shape = [1, len(values)]
    assert read_tensor(tensor(shape=shape, data=values)) == (shape, values)
    assert read_tensor(tensor(shape=shape, contents={key: values})) == (shape, values)


@given(numbers)
def test_nested_data_is_flattened(values):
    assert read_tensor(tensor(shape=[1, len(values)], data=[values])) == ([1, len(values)], values)


def test_the_seeds_request_is_784_pixels_in_the_protobuf_form():
    shape, values = read_tensor(seed_request())
    assert (shape, len(values)) == ([1, 784], 784)
    assert "fp32_contents" in json.loads(seed_request())["inputs"][0]["contents"]


def test_as_rest_keeps_the_pixels():
    rest = json.loads(as_rest(seed_request()))["inputs"][0]
    assert "contents" not in rest
    assert rest["data"] == read_tensor(seed_request())[1]
    assert (rest["name"], rest["datatype"], rest["shape"]) == ("inputs", "FP32", [1, 784])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "expected a V2 inference request"),
        (b"[]", "expected a V2 inference request"),
        (b'{"inputs": []}', "expected a V2 inference request"),
        (b'{"inputs": [{"name": "x"}]}', "expected a V2 inference request"),
        (tensor(shape=[1]), "neither `data` nor `contents`"),
        (tensor(shape=[1], contents={"bytes_contents": ["eA=="]}), "neither `data` nor `contents`"),
        (tensor(shape=[1], data=5), "expected a list of numbers, found int"),
    ],
)
def test_what_is_no_request_is_refused_with_its_reason(body, said):
    with pytest.raises(BadPayloadError, match=said):
        read_tensor(body)


@given(st.integers(0, 9), st.none() | st.lists(st.floats(0, 1), min_size=10, max_size=10))
def test_a_digit_is_read_back_from_an_answer(digit, probabilities):
    assert read_digit(json.dumps(answer("m", digit, probabilities)).encode()) == digit


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"outputs": []}', b'{"outputs": [{"name": "predict", "data": []}]}']
)
def test_an_answer_without_a_digit_is_an_error(body):
    with pytest.raises(BadPayloadError, match="predict"):
        read_digit(body)
