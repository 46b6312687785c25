"""Suites are modules of their own: pytest explains their assertions only when told so."""

import pytest
from moving_servers import new  # noqa: F401  # a fixture
from sandboxes import bubblewrap_works, proxy_dir  # noqa: F401  # fixtures

pytest.register_assert_rewrite(
    "conformance.event_store_suite",
    "conformance.kurrent_contract_suite",
    "conformance.queue_suite",
    "conformance.sandbox_suite",
    "conformance.isolation_suite",
    "conformance.proxy_path_suite",
)
