"""The contract, the domain and the generated files say the same."""

from __future__ import annotations

import tempfile
from enum import IntEnum
from pathlib import Path

import pytest
from google.protobuf.descriptor import EnumDescriptor

import generate
import reference_contract
from entitlement_sidecar.domain import catalogue, decision, usage, window
from entitlement_sidecar.wire.v1 import decision_pb2, types_pb2, usage_pb2

PAIRS: tuple[tuple[type[IntEnum], EnumDescriptor], ...] = (
    (catalogue.AfterStale, types_pb2.AfterStale.DESCRIPTOR),
    (catalogue.Aggregation, types_pb2.Aggregation.DESCRIPTOR),
    (catalogue.Classification, types_pb2.Classification.DESCRIPTOR),
    (catalogue.Durability, types_pb2.Durability.DESCRIPTOR),
    (catalogue.FeatureKind, types_pb2.FeatureKind.DESCRIPTOR),
    (catalogue.WhenUnknown, types_pb2.WhenUnknown.DESCRIPTOR),
    (decision.CheckMode, decision_pb2.CheckMode.DESCRIPTOR),
    (decision.Degradation, decision_pb2.Degradation.DESCRIPTOR),
    (decision.ProvenanceKind, types_pb2.ProvenanceKind.DESCRIPTOR),
    (decision.Reason, decision_pb2.Reason.DESCRIPTOR),
    (decision.Source, decision_pb2.Source.DESCRIPTOR),
    (decision.WarningKind, decision_pb2.WarningKind.DESCRIPTOR),
    (usage.UsageOutcome, usage_pb2.UsageOutcome.DESCRIPTOR),
    (window.WindowUnit, types_pb2.WindowUnit.DESCRIPTOR),
)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=lambda value: getattr(value, "__name__", ""))
def test_an_enum_of_the_domain_is_that_of_the_contract(ours: type[IntEnum], theirs: EnumDescriptor) -> None:
    """Codecs copy numbers: names and numbers have to be equal; UNSPECIFIED is never sent, UNKNOWN is ours."""
    prefix = theirs.values_by_number[0].name.removesuffix("UNSPECIFIED")
    contract = {value.name.removeprefix(prefix): value.number for value in theirs.values if value.number}
    assert {member.name: member.value for member in ours if member.value} == contract


def test_every_element_of_the_contract_has_a_comment() -> None:
    """The reference page is made of the comments: one that is missing leaves a hole in it."""
    with tempfile.TemporaryDirectory() as folder:
        description = Path(folder, "contract.bin")
        generate.run_protoc(f"--descriptor_set_out={description}", "--include_source_info")
        elements = list(reference_contract.elements(description.read_bytes()))
    assert len(elements) > 100
    assert [element.name for element in elements if not element.comment] == []


def test_generated_files_are_fresh() -> None:
    """What is committed is what `make generate` writes, byte for byte."""
    assert list(generate.stale(generate.generate())) == []
