"""What is imported when: public names when they are asked for, heavy libraries when they work."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import alignprune

PACKAGE = Path(alignprune.__file__).parent
OF_EXPERIMENTS = {
    "datasets",
    "duckdb",
    "lightning",
    "matplotlib",
    "pyarrow",
    "ray",
    "scipy",
    "sklearn",
    "timm",
    "torchvision",
}
HEAVY = {"torch", *OF_EXPERIMENTS}


def python(code: str, *arguments: str) -> str:
    """Run code in a fresh interpreter and return what it prints in its last line."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def imported(code: str, *arguments: str) -> set[str]:
    """The heavy libraries that a fresh interpreter holds after some code."""
    last = "import json, sys; print(); print(json.dumps([name for name in sys.modules if '.' not in name]))"
    return HEAVY & set(json.loads(python(f"{code}\n{last}", *arguments)))


def imported_by_main(commands: list[tuple[list[str], int]]) -> set[str]:
    """The heavy libraries that commands load, one after the other; each has to end with its exit code."""
    run = f"""
from alignprune.cli import main
for words, code in {commands!r}:
    assert main(words) == code, words
"""
    return imported(run)


def core_modules() -> list[str]:
    """All modules but those of the experiments, the trainers and the command line."""
    files = [file.relative_to(PACKAGE.parent).with_suffix("") for file in sorted(PACKAGE.rglob("*.py"))]
    names = [".".join(file.parts).removesuffix(".__init__") for file in files]
    others = ("alignprune.bench", "alignprune.integrations", "alignprune.cli")
    return [name for name in names if not name.startswith(others)]


# -- the package --------------------------------------------------------------------------------------------


def test_every_public_name_is_there_and_others_are_not() -> None:
    assert set(alignprune.__all__) < set(dir(alignprune))
    for name in alignprune.__all__:
        assert getattr(alignprune, name) is not None
    assert alignprune.Pruner is alignprune.pruner.Pruner
    assert alignprune.scores is sys.modules["alignprune.scores"]
    with pytest.raises(AttributeError, match="module 'alignprune' has no attribute 'Prunr'"):
        _ = alignprune.Prunr


def test_type_checkers_see_the_names_that_there_are() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    seen = [alias.asname for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(map(str, seen)) == sorted(alignprune.__all__)


def test_star_imports_give_every_public_name() -> None:
    given = python("from alignprune import *; print(*(name for name in globals() if name[:1] != '_'))")
    assert given.split() == alignprune.__all__


def test_the_package_does_not_load_torch_before_a_name_is_used() -> None:
    assert imported("import alignprune; alignprune.__version__; dir(alignprune)") == set()
    assert imported("import alignprune; alignprune.Pruner") == {"torch"}


def test_the_core_imports_where_nothing_but_torch_and_numpy_can_be_imported() -> None:
    code = """
import importlib, importlib.abc, sys
import torch, torch.utils.data, torch.distributed, numpy  # with what they import themselves

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        top = name.partition(".")[0]
        if top not in {"alignprune", "torch", "numpy", *sys.stdlib_module_names}:
            raise ModuleNotFoundError(f"the core imports {name}")

sys.meta_path.insert(0, Refuse())
for name in sys.argv[1].split():
    importlib.import_module(name)
print("imported")
"""
    assert python(code, " ".join(core_modules())) == "imported"


def imports_of(tree: ast.AST, modules: set[str]) -> set[str]:
    """The modules that a module takes something from, at its head or in a function; not for type checkers alone."""
    found: set[str] = set()
    if isinstance(tree, ast.If) and ast.unparse(tree.test) == "TYPE_CHECKING":
        return found
    if isinstance(tree, ast.Import):
        found = {alias.name for alias in tree.names}
    elif isinstance(tree, ast.ImportFrom):
        inside = {f"{tree.module}.{alias.name}" for alias in tree.names}
        found = inside & modules or {str(tree.module)}
    return (found & modules).union(*(imports_of(node, modules) for node in ast.iter_child_nodes(tree)))


def test_no_module_needs_one_that_needs_it() -> None:
    files = {
        ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): file
        for file in PACKAGE.rglob("*.py")
    }
    needed = {name: imports_of(ast.parse(file.read_text()), set(files)) - {name} for name, file in files.items()}
    assert sum(map(len, needed.values())) > len(files)
    order = list(TopologicalSorter(needed).static_order())  # raises CycleError, with the circle
    assert order.index("alignprune.recorder") < order.index("alignprune.pruner") < order.index("alignprune.cli")


# -- the command line ---------------------------------------------------------------------------------------


def test_a_mistyped_command_and_the_overview_do_without_torch() -> None:
    commands = [(["trian"], 2), (["help", "trian"], 2), (["--version"], 0), (["--help"], 0), (["help"], 0)]
    assert imported_by_main(commands) == set()


def test_runs_are_listed_without_torch(tmp_path: Path) -> None:
    pytest.importorskip("tyro", reason="the extra of the experiments is not installed")
    from runs import complete_run

    complete_run(tmp_path / "run", None, {"method": "full"}, {"accuracy": 0.5}, [{"epoch": 1}])
    commands = [(["runs", str(tmp_path)], 0), (["runs", str(tmp_path), "--jsno"], 2), (["runs", "/nowhere"], 2)]
    assert imported_by_main(commands) == set()


def test_the_help_of_a_command_loads_torch_at_most() -> None:
    pytest.importorskip("timm", reason="the extra of the experiments is not installed")
    names = ["demo", "train", "predict", "runs", "data", "sweep", "table", "figure", "doctor"]
    assert imported_by_main([(["help", name], 0) for name in names]) <= {"torch"}


def test_methods_and_a_mistyped_method_load_torch_at_most() -> None:
    pytest.importorskip("tyro", reason="the extra of the command line is not installed")
    commands = [
        (["methods"], 0),
        (["methods", "--markdwon"], 2),
        (["train", "cifar100n", "--method", "infobach"], 2),
        (["train", "--method=infobach", "cifar100n"], 2),
        (["train", "cifar100n", "--recipe"], 2),
    ]
    assert imported_by_main(commands) <= {"torch"}
