"""Collection: the folders' conftest files share a name, which the doctest collector refuses."""

collect_ignore_glob = ["conftest.py", "*/conftest.py"]
