"""What is imported when: names are looked up and refused before any heavy library loads; imports point one way."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import alignprune.bench

HEAVY = (
    "datasets",
    "duckdb",
    "lightning_fabric",
    "matplotlib",
    "pyarrow",
    "ray",
    "scipy",
    "sklearn",
    "timm",
    "torchvision",
)

ROOT = Path(alignprune.bench.__file__).parent


def loaded_after(code: str) -> list[str]:
    """The heavy libraries that a fresh interpreter has loaded after some lines."""
    return last_line(f"{code}\nimport sys; print(*[name for name in {HEAVY!r} if name in sys.modules])").split()


def last_line(code: str) -> str:
    """What a fresh interpreter prints last."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


LIGHT = (
    "commands",
    "data",
    "data.preparation",
    "grid.beyond",
    "grid.cells",
    "grid.experiments",
    "grid.plan",
    "grid.sweep",
    "recipes",
    "results.measures",
    "results.tables",
    "run.config",
    "run.settings",
    "run.stored",
    "run.trackers",
)
MISTYPED = [
    ({"dataset": "cifar100"}, "did you mean 'cifar100n'"),
    ({"dataset": "cifar100n", "noise": "reel"}, "did you mean 'real'"),
    ({"dataset": "cifar100n", "noise": "symmetric"}, "noise_rate"),
]


def test_names_and_settings_need_no_heavy_library() -> None:
    assert loaded_after("".join(f"import alignprune.bench.{module}\n" for module in LIGHT)) == []


def test_a_mistyped_data_set_or_noise_is_refused_before_any_of_them_loads() -> None:
    code = f"""
from alignprune.bench import commands
from alignprune.bench.run.config import configure
for settings, said in {MISTYPED!r}:
    try:
        commands.train(configure({{"method": "infobatch", **settings}}))
    except ValueError as error:
        assert said in str(error), error
    else:
        raise AssertionError(f"nothing was refused: {{settings}}")
"""
    assert loaded_after(code) == []


def test_a_network_for_features_is_made_without_the_library_of_the_networks_for_images() -> None:
    assert "timm" not in loaded_after("from alignprune.bench import models\nmodels.create('mlp', 3, (5,))")
    assert "timm" in loaded_after("from alignprune.bench import models\nmodels.create('resnet-small', 3, (3, 8, 8))")


def test_fabric_comes_without_the_metrics_of_lightning_and_leaves_them_to_who_asks_for_them() -> None:
    if importlib.util.find_spec("torchmetrics") is None:
        pytest.skip("the extra of Lightning is not installed")
    training = "import importlib.util, sys\nfrom alignprune.bench.run import training\n"
    found = "importlib.util.find_spec('torchmetrics') is not None"
    assert last_line(f"{training}print('torchmetrics' in sys.modules, {found})") == "False True"
    there = "import sys\nsys.modules['torchmetrics'] = mine = type(sys)('torchmetrics')\n"
    assert last_line(f"{there}{training}print(sys.modules['torchmetrics'] is mine)") == "True"


def test_the_demo_runs_where_there_is_no_database_and_no_library_of_the_experiments(tmp_path: Path) -> None:
    absent = (
        "datasets",
        "duckdb",
        "filelock",
        "lightning_fabric",
        "pyarrow",
        "ray",
        "rich",
        "timm",
        "torchvision",
        "tyro",
    )
    code = f"""
import sys
from pathlib import Path
sys.modules |= dict.fromkeys({absent!r})
from alignprune.bench import demo
demo.METHODS = demo.METHODS[:1]
demo.run(demo.DemoConfig(out=Path({str(tmp_path)!r}), seeds=1, epochs=4))
"""
    loaded_after(code)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "loss_distribution.png",
        "summary.json",
        "trajectories.png",
    ]


def imported_by(file: Path) -> set[str]:
    """The modules of this package that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("alignprune.")}


@pytest.mark.parametrize(
    "room, others",
    [
        ("data", ("run", "grid", "results", "commands")),
        ("run", ("grid", "results", "commands")),
        ("grid", ("results", "commands")),
        ("results", ("run.training", "run.cross_validation", "run.kinds", "grid.plan", "grid.sweep", "commands")),
    ],
)
def test_imports_point_one_way(room: str, others: tuple[str, ...]) -> None:
    forbidden = tuple(f"alignprune.bench.{other}" for other in others)
    for file in (ROOT / room).glob("*.py"):
        assert not [name for name in imported_by(file) if name.startswith(forbidden)], file
