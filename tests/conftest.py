"""Assertions in the helpers that say what was compared."""

import pytest

pytest.register_assert_rewrite("_helpers")
