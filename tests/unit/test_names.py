"""One word, one meaning: no public name is defined twice."""

import ast
from collections import defaultdict
from pathlib import Path

import redrift

ROOT = Path(redrift.__file__).parent
ALLOWED: set[str] = set()


def definitions():
    """Yield (name, module) of every public function, class and type at the top of a module."""
    for path in sorted(ROOT.rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if module.startswith("cli"):  # commands, not names to import
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_":
                yield node.name, module


def test_no_public_name_means_two_things():
    found = defaultdict(list)
    for name, module in definitions():
        found[name].append(module)
    twice = {name: modules for name, modules in found.items() if len(modules) > 1}
    assert twice.keys() <= ALLOWED, twice
