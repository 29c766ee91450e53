"""The OpenAPI document against the application, by requests that schemathesis makes up.

Two of its checks do not fit. Not every request that fits the schema is accepted: which nodes and tables there
are is in the configuration. And what it takes for wrong can be right: an empty text is a text.
"""

from __future__ import annotations

import os

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from api.app import create_app
from tests.fixtures.api_bed import Bed

UNFIT = [positive_data_acceptance, negative_data_rejection]


@pytest.fixture
def more_api() -> str:
    return "development: true, rate: {subject: 1000000, address: 1000000}"


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_every_answer_is_as_documented(bed: Bed, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_asgi("/api/openapi.json", create_app(bed.backend))
    headers, asked = bed.keys.bearer("admin"), 0
    for found in schema.get_all_operations():
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and not [*operation.iter_parameters(), *operation.body]:
            continue  # nothing can be wrong about it

        @settings(
            max_examples=int(os.environ.get("REQUESTS", "4")),
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: schemathesis.Case) -> None:
            case.call_and_validate(headers=headers, excluded_checks=UNFIT)

        ask()
        asked += 1
    assert asked >= 11
    bed.wait_for(lambda: all(o.state != "running" for o in bed.backend.operations.all()))
