"""The wheel: everything that the package needs is in it, and it works where no repository is."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOT_SHIPPED = {"benchmarks", "build", "dist", "docs", "examples", "runs", "tests"}
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]


def left_out(folder: str, names: list[str]) -> set[str]:
    """What a copy of the tree leaves out: hidden, made by tools, or not shipped."""
    top = Path(folder) == ROOT
    return {
        name
        for name in names
        if name.startswith(".")
        or name.endswith((".egg-info", "__pycache__"))
        or (Path(folder) / name / "pyvenv.cfg").exists()
        or (top and name in NOT_SHIPPED)
    }


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """The repository as a clean clone has it, with what is new."""
    return shutil.copytree(ROOT, tmp_path_factory.mktemp("tree") / "my clone-1", ignore=left_out)


@pytest.fixture(scope="module")
def wheel(tree, tmp_path_factory) -> Path:
    """Built in a copy of its own: building leaves a folder `build/` behind."""
    out = tmp_path_factory.mktemp("wheel")
    copy = shutil.copytree(tree, out / "my clone-1")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, copy, cwd=out)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def elsewhere(wheel, tmp_path_factory) -> Path:
    """A folder with a venv that holds the wheel, and borrows its dependencies from this one.

    A folder named in a .pth file does not have its own .pth files read, so the editable install
    of this one stays out of sight.
    """
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder / "venv", symlinks=True, with_pip=False)
    site = next((folder / "venv").glob("lib/python*/site-packages"))
    borrowed = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (site / "borrowed.pth").write_text("\n".join(borrowed))
    python = folder / "venv/bin/python"
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    # Forced, because pip sees the borrowed packages, this repository's own install among them.
    run(*pip, "install", "--no-index", "--no-deps", "--ignore-installed", wheel, cwd=folder)
    return folder


def run(*command, cwd: Path) -> str:
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_folder_with_python_files_is_a_package(tree):
    folders = {path.parent.relative_to(tree) for path in tree.rglob("*.py")}
    assert {".".join(("palaestra", *folder.parts)) for folder in folders} == set(PACKAGES)


def test_every_file_of_every_package_is_in_the_wheel(tree, wheel):
    """Data files too: a missing one is a missing line in package-data."""
    files = {path for path in tree.rglob("*") if path.is_file()}
    ours = {path for path in files if path.parent != tree or path.suffix in (".py", ".typed")}
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("palaestra/")}
    assert inside == {f"palaestra/{path.relative_to(tree)}" for path in ours}


def test_the_wheel_is_what_gets_imported(elsewhere):
    code = "import palaestra; print(palaestra.__file__)"
    assert run("venv/bin/python", "-c", code, cwd=elsewhere).startswith(f"{elsewhere}/venv/lib")


def test_it_lists_its_environments(elsewhere):
    assert "palaestra/Stockroom-v0" in run("venv/bin/palaestra", "envs", cwd=elsewhere)


def test_it_evaluates(elsewhere):
    asked = "eval palaestra/Stockroom-v0 --policy expert --n 5 --json".split()
    report = json.loads(run("venv/bin/palaestra", *asked, cwd=elsewhere).splitlines()[-1])
    assert (report["n"], report["success"]) == (5, 1.0)


def test_it_brings_its_configurations(elsewhere):
    code = "from importlib.resources import files; print(files('palaestra.configs') / 'tiny.toml')"
    packaged = Path(run("venv/bin/python", "-c", code, cwd=elsewhere).strip())
    assert packaged.is_relative_to(elsewhere)
    assert tomllib.loads(packaged.read_text())["env"]
