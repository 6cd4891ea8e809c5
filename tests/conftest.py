"""Collection, and assertions in the helpers that say what was compared."""

import pytest

pytest.register_assert_rewrite("_helpers")

# The folders' conftest files share a name, which the doctest collector refuses.
collect_ignore_glob = ["conftest.py", "*/conftest.py"]
