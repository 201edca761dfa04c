"""Planted bugs: each is put into a copy of the library, where the laws named with it must turn red.

One list for each package, beside the laws that guard it. A bug names the function, method or class it sits
in and a text that occurs there exactly once, with what replaces it, so that an entry which no longer
applies fails loudly and one that does survives edits elsewhere in the file. `make test-planted` runs all.
"""

import ast
import dataclasses
import importlib
import pkgutil


@dataclasses.dataclass(frozen=True)
class Bug:
    """A bug by name: (place, text, replacement) edits, and the laws that catch it.

    A place is "package.module:Class.method", "package.module:function", or "package.module" for what
    stands outside of both.
    """

    name: str
    edits: tuple[tuple[str, str, str], ...]
    laws: tuple[str, ...]


def bug(name, place, old, new, *laws):
    return Bug(name, ((place, old, new),), laws)


def bugs():
    """Return the bugs of all packages."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    lists = [importlib.import_module(f"planted.{name}") for name in names if name[:5] != "test_"]
    return [bug for found in lists for bug in found.BUGS]


def plant(package, place, old, new):
    """Put one edit into the package's copy.

    Args:
        package: folder of the copy.
        place: where, see `Bug`.
        old: text that occurs there once.
        new: what replaces it.
    """
    module, _, symbol = place.partition(":")
    path = package.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = path.read_text(encoding="utf-8")
    first, last = _span(text, symbol)
    part = text[first:last]
    count = part.count(old)
    assert count == 1, f"{old!r} occurs {count} times in {place}: bring the entry up to date"
    path.write_text(text[:first] + part.replace(old, new) + text[last:], encoding="utf-8")


def _span(text, symbol):
    """Return where a symbol's text begins and ends, decorators included."""
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    node, first, last = ast.parse(text), 0, len(text)
    for name in symbol.split(".") if symbol else ():
        found = [child for child in node.body if getattr(child, "name", None) == name]
        assert len(found) == 1, (
            f"{symbol} is not there, or more than once: bring the entry up to date"
        )
        node = found[0]
        first = starts[min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1]
        last = starts[node.end_lineno]
    return first, last
