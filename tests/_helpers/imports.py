"""What a source file imports when it runs."""

import ast


def nodes(tree):
    """All nodes but those that only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from nodes(node)


def imports(source, module):
    """Dotted names that a source imports anywhere, relative ones resolved against its module."""
    for node in nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*module.split(".")[: -node.level], *filter(None, [base])])
            # "from package import room" names a module as well as "from package.room import x".
            yield from (f"{base}.{alias.name}" for alias in node.names)
