"""The definitions in protos/ compile, and the seed's request is what they say it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

from xds_server import known_messages

ROOT = Path(__file__).parents[2]
DESCRIPTORS = ROOT / "xds_server" / "resources" / "open_inference.pb"


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> descriptor_pool.DescriptorPool:
    out = tmp_path_factory.mktemp("protos") / "set.pb"
    protos = ROOT / "protos"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{protos}", "--include_imports"]
    subprocess.run([*command, f"--descriptor_set_out={out}", "open_inference.proto"], check=True, cwd=protos)
    assert out.read_bytes() == DESCRIPTORS.read_bytes(), "run `make protos`"
    made = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file:
        made.Add(file)
    return made


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> descriptor_pool.DescriptorPool:
    out = tmp_path_factory.mktemp("protos") / "known.pb"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-Iprotos", f"--descriptor_set_out={out}"]
    subprocess.run([*command, "protos/known.proto"], check=True, cwd=ROOT)
    made = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file:
        made.Add(file)
    return made


def test_the_question_whether_a_model_is_known_is_what_its_definition_says(
    known: descriptor_pool.DescriptorPool,
) -> None:
    (method,) = known.FindServiceByName(known_messages.SERVICE).methods
    assert (method.name, method.input_type.name) == (known_messages.METHOD, "IsKnownRequest")
    question = message_factory.GetMessageClass(method.input_type)
    for hosts, model in ((("a", "b" * 300), "naïve/versions/1"), ((), "m")):
        written = question(hosts=hosts, model=model).SerializeToString()
        assert known_messages.parse_question(written) == (hosts, model)
    answer = message_factory.GetMessageClass(method.output_type)
    assert answer(answer="KNOWN").SerializeToString() == known_messages.KNOWN
    assert answer(answer="UNKNOWN").SerializeToString() == known_messages.UNKNOWN


def test_the_seeds_request_is_the_json_form_of_a_model_infer_request(
    pool: descriptor_pool.DescriptorPool,
) -> None:
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelInferRequest"))
    text = (ROOT / "tests/data/seed/infer-payload.json").read_text()
    (tensor,) = json_format.Parse(text, kind()).inputs
    assert list(tensor.shape) == [1, 784]
    assert tensor.datatype == "FP32"
    sent = json.loads(text)["inputs"][0]["contents"]["fp32_contents"]
    assert list(tensor.contents.fp32_contents) == pytest.approx(sent)


def test_the_service_has_inference_and_the_repository(pool: descriptor_pool.DescriptorPool) -> None:
    service = pool.FindServiceByName("inference.GRPCInferenceService")
    assert {"ModelInfer", "ModelReady", "RepositoryIndex", "RepositoryModelLoad"} <= set(
        service.methods_by_name
    )
