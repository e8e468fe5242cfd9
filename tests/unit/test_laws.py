"""The laws of the code, read from every source file: who imports whom, and what a module must say and not say."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

TREE = Path(__file__).parents[2]
PACKAGES = ("supervisor", "runtime", "net")
SOURCES = sorted(
    [TREE / "creche.py", *(path for package in PACKAGES for path in (TREE / package).rglob("*.py"))],
    key=lambda path: str(path),
)

ALLOWED = {"supervisor": {"runtime", "net"}, "runtime": set[str](), "net": set[str]()}
"""Which of the others a package may import."""

ONLY_IN = {
    "ctypes": ("runtime/syscalls.py",),
    "pyroute2": ("net/",),
    "tomllib": ("supervisor/app_file/read.py",),
    "tomli_w": ("supervisor/app_file/write.py",),
    "cattrs": ("supervisor/app_file/read.py", "supervisor/app_file/write.py", "supervisor/journal.py"),
}
"""Where a module may be imported."""

SHAPELESS = {"utils", "util", "helpers", "common", "manager", "base", "misc", "core", "lib"}


def name_of(path: Path) -> str:
    """A source's name as an import says it."""
    parts = path.relative_to(TREE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path): path for path in SOURCES}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(path: Path, *, at_run_time: bool = False) -> Iterator[str]:
    """Every module that a source imports; with `at_run_time` without what only type checkers read."""
    for node in _walk(parsed(path)) if at_run_time else ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = name_of(path).split(".")[: -node.level or None] if path.name != "__init__.py" else [name_of(path)]
            module = ".".join([*(above if node.level else []), *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                yield inner if inner in NAMES else module


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        yield child
        yield from _walk(child)


def named(paths: list[Path] = SOURCES) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=[str(path.relative_to(TREE)) for path in paths])


@named([path for path in SOURCES if path.parent != TREE])
def test_imports_go_one_way(path: Path) -> None:
    own = path.relative_to(TREE).parts[0]
    others = {module.split(".")[0] for module in imports(path)} & set(PACKAGES) - {own}
    assert others <= ALLOWED[own]


@named()
def test_some_modules_have_their_one_place(path: Path) -> None:
    where = str(path.relative_to(TREE))
    for module in {module.split(".")[0] for module in imports(path)} & ONLY_IN.keys():
        assert where.startswith(ONLY_IN[module]), f"{module} is imported in {where}"


def launchers_side() -> list[Path]:
    """Everything that the launcher loads."""
    found: set[str] = set()
    waiting = ["runtime.launch.launcher"]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        waiting += [name.rpartition(".")[0]] if "." in name else []
        waiting += [module for module in imports(NAMES[name], at_run_time=True) if module in NAMES]
    return [NAMES[name] for name in sorted(found)]


@named(launchers_side())
def test_the_launchers_side_uses_the_standard_library_alone(path: Path) -> None:
    for module in imports(path, at_run_time=True):
        top = module.split(".")[0]
        assert top == "runtime" or top in sys.stdlib_module_names, f"{module} is imported in {path}"


FORBIDDEN_BESIDE_LIVES = {"asyncio", "threading", "concurrent", "multiprocessing", "traceback", "pwd", "grp", "logging"}


@named(launchers_side())
def test_the_launchers_side_knows_no_threads_and_no_name_services(path: Path) -> None:
    assert not {module.split(".")[0] for module in imports(path)} & FORBIDDEN_BESIDE_LIVES


@named(launchers_side())
def test_the_launchers_side_imports_nothing_late(path: Path) -> None:
    """After pivot_root the paths of the import system lead into a hostile root."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            late = [each for each in ast.walk(node) if isinstance(each, ast.Import | ast.ImportFrom)]
            assert not late, f"{path}:{late[0].lineno}"


@named()
def test_no_module_is_named_for_nothing(path: Path) -> None:
    assert not set(name_of(path).split(".")) & SHAPELESS


@named()
def test_every_module_says_in_one_line_what_it_is(path: Path) -> None:
    said = ast.get_docstring(parsed(path))
    assert said
    first, *rest = said.split("\n")
    assert first.endswith("."), first
    assert len(first) <= 120
    assert not rest or not rest[0]


@named()
def test_no_error_is_caught_without_a_name_or_swallowed(path: Path) -> None:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{path}:{node.lineno}: a bare except"
            kinds = {each.id for each in ast.walk(node.type) if isinstance(each, ast.Name)}
            silent = all(isinstance(each, ast.Pass) for each in node.body)
            assert not (silent and kinds & {"Exception", "BaseException"}), f"{path}:{node.lineno}: swallowed"


@named()
def test_nothing_is_left_for_later(path: Path) -> None:
    words = [word for word in ("TODO", "FIXME", "XXX", "HACK") if word in path.read_text()]
    assert not words


def test_the_law_reader_sees_what_it_must() -> None:
    """Its own negative control."""
    assert "runtime.launch.messages" in imports(NAMES["supervisor.connection"])
    assert "supervisor.app_file.problems" in imports(NAMES["supervisor.app_file.read"])
    assert "ctypes" in imports(NAMES["runtime.syscalls"])
    assert NAMES["runtime.launch.birth"] in launchers_side()
    assert NAMES["runtime.plan"] not in launchers_side()
