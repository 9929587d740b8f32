"""The house: who imports whom, how long a function is, and that a name is there once.

The order of the modules is read from README.md, from the block that begins with ORDER.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.served import ROOT

ORDER = "imports point down this list, never up"
SOURCES = [ROOT / "app.py", *ROOT.glob("nada/**/*.py"), *ROOT.glob("op/**/*.py")]
TESTS = sorted(ROOT.glob("tests/*.py"))
LONGEST = 60  # lines of a function
MODULES_OF_THE_METHOD = 22  # that lie directly in nada/, at most


def name_of(path: Path) -> str:
    """The module's name, as it is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in SOURCES}


def imported(path: Path) -> Iterator[str]:
    """All names that a file imports, also within functions; `from a import b` gives a and a.b."""
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1]
            home = ".".join([*(parts if node.level else ()), *filter(None, [node.module])])
            yield from (home, *(f"{home}.{alias.name}" for alias in node.names))


@cache
def neighbours() -> dict[str, set[str]]:
    """Modules of this repository by the module that imports them."""
    found = {name: MODULES.keys() & set(imported(path)) for name, path in MODULES.items()}
    for name, others in found.items():  # what a package holds, rather than the package
        others -= {o for o in others if any(x.startswith(f"{o}.") for x in others)} | {name}
    return found


def levels() -> list[list[str]]:
    """Modules and packages from top to bottom; those of one level stand beside each other."""
    readme = (ROOT / "README.md").read_text()
    (block,) = re.findall(rf"```\w*\n{ORDER}\n(.*?)```", readme, re.DOTALL)
    return [line.split() for line in block.strip().splitlines()]


def place(module: str) -> tuple[int, str]:
    """Level and entry of a module in the README's order."""
    found = [
        (level, entry)
        for level, entries in enumerate(levels())
        for entry in entries
        if f"{module}.".startswith(f"{entry}.")
    ]
    assert len(found) == 1, f"{module} has no place of its own in the README's order: {found}"
    return found[0]


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def lines(node: ast.stmt) -> int:
    return node.end_lineno - node.lineno + 1


def is_table(function: ast.FunctionDef) -> bool:
    """Whether most of it is one value that it returns."""
    last = function.body[-1]
    return isinstance(last, ast.Return) and lines(last) > lines(function) / 2


# Imports


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"nada"}))
def test_imports_point_down_the_readmes_list(module):
    level, entry = place(module)
    for other in neighbours()[module]:
        below, its = place(other)
        assert its == entry or below > level, f"{module} imports {other}, which is not below it"


def test_the_front_door_imports_nothing_before_it_is_asked():
    assert neighbours()["nada"] == set()


def test_no_import_leads_back_to_where_it_began():
    finished, path = set(), []

    def visit(module: str) -> None:
        assert module not in path, " → ".join([*path[path.index(module) :], module])
        if module not in finished:
            path.append(module)
            for other in sorted(neighbours()[module]):
                visit(other)
            finished.add(path.pop())

    for module in MODULES:
        visit(module)
    assert finished == MODULES.keys()


def test_only_the_page_imports_gradio_or_spaces():
    using = {
        name
        for name, path in MODULES.items()
        if {"gradio", "spaces", "gradio_client"} & {x.split(".")[0] for x in imported(path)}
    }
    assert using == {"app"}


def test_serving_needs_no_experiments_and_nothing_needs_the_tests():
    for name, path in MODULES.items():
        names = set(imported(path))
        assert not any(x.split(".")[0] in ("tests", "conftest") for x in names), name
        if name.startswith("nada.serve"):
            assert not any(x.startswith("nada.experiments") for x in names), name


def test_no_test_module_imports_another():
    for path in TESTS:
        others = [x for x in imported(path) if re.match(r"(tests\.)?test_", x)]
        assert not others, (path.name, others)


# Size and names


def test_few_modules_lie_side_by_side():
    assert len(list(ROOT.glob("nada/*.py"))) <= MODULES_OF_THE_METHOD


def test_functions_fit_on_a_screen():
    long = {
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name}": lines(function)
        for path in SOURCES
        for function in functions(path)
        if lines(function) > LONGEST and not is_table(function)
    }
    assert long == {}


def test_a_class_name_is_there_once():
    classes = Counter(
        node.name
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, times in classes.items() if times > 1] == []


def test_scripts_can_be_called_with_arguments():
    """So that tests and programs can run them in their own process."""
    mains = {
        path: function.args.args
        for path in SOURCES
        for function in functions(path)
        if function.name == "main" and path.name != "app.py"
    }
    assert mains and all(mains.values()), mains
