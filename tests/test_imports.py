"""What imports what: the levels of the architecture, the light import, the independence of the reference."""

import ast
import collections
import importlib
import itertools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jaxcnn
from jaxcnn.verify import OPERATIONS

ROOT = Path(jaxcnn.__file__).parent
EXPORTING = re.findall(r"^from \.([\w.]+) import \*$", (ROOT / "__init__.py").read_text(), re.M)
LEVELS = [
    {"errors", "files", "html", "tables", "meshes"},
    {"operation", "geometry", "initializers", "sgd", "spread", "data", "kernels"},
    {"layers", "losses"},
    {"plan", "training", "change"},
    {"fit", "progress", "recovery", "inspect", "measure", "private"},
    {"recipe", "store"},
    {"zoo", "verify"},
    {"experiment", "saved"},
    {"recorder", "tensorboard", "measuring"},
    {"cli", "__main__"},
]


def level(module: str) -> int:
    return next(i for i, names in enumerate(LEVELS) if module in names)


def imported_modules(path: Path):
    """The modules of jaxcnn that the file names, by their first part below the package."""
    depth = len(path.relative_to(ROOT).parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not any(alias.name.split(".")[0] == "jaxcnn" for alias in node.names), (
                f"{path}: use relative imports"
            )
        if isinstance(node, ast.ImportFrom) and node.level:
            inside = path.relative_to(ROOT).parts[: depth - node.level]
            parts = [*inside, *(node.module or "").split(".")]
            parts = [part for part in parts if part]
            yield from [parts[0]] if parts else [alias.name for alias in node.names]


def test_a_module_imports_only_from_its_level_or_lower():
    seen = set()
    for path in ROOT.rglob("*.py"):
        module = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if module == "__init__":
            continue
        for other in imported_modules(path):
            if other in {"__version__", module}:
                continue
            seen.add((module, other))
            assert level(other) <= level(module), f"{path} imports {other} from above"
    assert ("layers", "geometry") in seen
    assert ("cli", "experiment") in seen


def test_levels_name_every_module():
    found = {path.stem for path in ROOT.iterdir() if (path.suffix == ".py" or path.is_dir())}
    assert found - {"__init__", "__pycache__", "py"} == set().union(*LEVELS)


def test_nothing_in_jaxcnn_imports_the_reference_or_the_benchmarks_and_the_reference_stays_numpy():
    for path in ROOT.rglob("*.py"):
        assert not re.search(r"^\s*(import|from) (reference|benchmarks)\b", path.read_text(), re.M), path
    for path in (ROOT.parent / "reference").glob("*.py"):
        if path.name != "__main__.py":
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    assert {alias.name for alias in node.names} <= {"numpy", "math"}, path
                elif isinstance(node, ast.ImportFrom):
                    assert node.level == 1, path


def test_import_is_light_and_leaves_the_configuration_alone():
    script = """
import sys, jax
before = dict(jax.config.values)
import jaxcnn
from jaxcnn.verify import OPERATIONS
assert dict(jax.config.values) == before, "configuration changed"
heavy = {"typer", "rich", "matplotlib", "safetensors", "sklearn", "optax", "scipy"} & set(sys.modules)
import subprocess
base = subprocess.run([sys.executable, "-c", "import sys, jax, jax.numpy, numpy; print(*sys.modules)"],
                      capture_output=True, text=True, check=True).stdout.split()
print(*(heavy - set(base)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_every_package_that_is_imported_is_in_an_extra():
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    known = {re.match(r"[\w-]+", name)[0].replace("-", "_") for name in named}
    known |= {"jaxlib", "jaxcnn", "benchmarks", "jaxcnn_onednn"}  # the last is native/, of this repository
    for path in itertools.chain(*((ROOT.parent / folder).rglob("*.py") for folder in ("jaxcnn", "benchmarks"))):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            called = {"sklearn": "scikit_learn", "PIL": "pillow", "absl": "absl_py", "backpack": "backpack_for_pytorch"}
            packages = {called.get(name.partition(".")[0], name.partition(".")[0]) for name in names}
            assert packages <= known | sys.stdlib_module_names, path


def test_everything_that_a_module_exports_is_there():
    """Each name once; every operation and every layer among them."""
    exported = [name for module in EXPORTING for name in importlib.import_module(f"jaxcnn.{module}").__all__]
    assert len(exported) == len(set(exported))
    assert all(hasattr(jaxcnn, name) for name in exported)
    assert {*OPERATIONS, "Sequential", "Residual", "Conv2d", "operation", "fit"} <= set(exported)


def test_a_public_name_means_one_thing():
    """Of the functions, classes and constants of all modules; pytest gives the fixture the name of what it calls."""
    owners = collections.defaultdict(set)
    for path in ROOT.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
            if isinstance(node, ast.Assign):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            for name in names:
                owners[name].add(str(path.relative_to(ROOT)))
    shared = {name: files for name, files in owners.items() if len(files) > 1 and not name.startswith("_")}
    assert shared == {"check_rule": {"verify/engine.py", "verify/pytest_plugin.py"}}
