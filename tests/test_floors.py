"""The plan of the house, held over the syntax tree: a room imports only from lower floors."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "covarium"
FLOORS = {
    "errors": 0, "units": 0, "files": 1, "algebra": 1, "kernels": 1, "ops": 2, "systems": 3, "layers": 4, "physics": 4,
    "models": 5, "data": 5, "tasks": 6, "checkpoint": 7, "config": 7, "training": 8, "pretrained": 8, "simulation": 8,
    "analysis": 8, "workflows": 9, "cli": 10, "__main__": 11, "__init__": 11,
}  # fmt: skip
FORBIDDEN = {"utils", "util", "common", "misc", "helpers", "helper"}
FILES = sorted(SOURCE.rglob("*.py"))
MODULES = {".".join(f.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__"): f for f in FILES}


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(tree: ast.Module) -> set[str]:
    """Modules of the package that are imported anywhere in the file, inside functions and under TYPE_CHECKING too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (submodules & MODULES.keys()) or {node.module}
    return {name for name in found if name in MODULES}


TREES = {module: ast.parse(file.read_text(encoding="utf-8")) for module, file in MODULES.items()}
parametrised = pytest.mark.parametrize("module", sorted(MODULES))


@parametrised
def test_imports_only_from_lower_floors(module: str) -> None:
    here = room(module)
    for name in imports(TREES[module]) - {"covarium"}:
        there = room(name)
        assert there == here or FLOORS[there] < FLOORS[here], f"{module} (floor {FLOORS[here]}) imports {name}"
        assert there != "kernels" or here in ("kernels", "ops"), f"{module} imports {name}; only ops may"


@parametrised
def test_house_numbers(module: str) -> None:
    lines = MODULES[module].read_text(encoding="utf-8").count("\n")
    assert lines <= 600, f"{module} has {lines} lines"
    assert not FORBIDDEN & set(module.split(".")), f"{module} says nothing about what is in it"
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and room(module) != "cli":
            a = node.args
            count = len([x for x in a.posonlyargs + a.args + a.kwonlyargs if x.arg not in ("self", "cls")])
            assert count <= 10, f"{module}.{node.name} has {count} arguments"
            assert node.end_lineno is not None and node.end_lineno - node.lineno < 60, f"{module}.{node.name} is long"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and room(module) != "cli":
            assert node.func.id != "print", f"{module}:{node.lineno} prints; only cli does"


def test_no_import_cycles() -> None:
    # the package itself holds the version and loads the rest on demand
    graph = {module: imports(tree) - {module, "covarium"} for module, tree in TREES.items()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, "import cycle: " + " → ".join((*path[path.index(module) :], module))
        if module not in done:
            for name in sorted(graph[module]):
                visit(name, (*path, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())
