"""Suites are modules of their own: pytest explains their assertions only when told so."""

import pytest
from sandboxes import bubblewrap_works, proxy_dir  # noqa: F401  # fixtures

pytest.register_assert_rewrite("hostile.hostile_suite", "conformance.sandbox_suite", "conformance.proxy_path_suite")
