"""What the README shows is what stands in the code."""

import re
from pathlib import Path

import palaestra

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_hello_world_of_the_readme_is_the_file():
    source = (ROOT / "envs" / "stockroom.py").read_text()
    assert source[source.index("ITEMS =") :] in blocks("python")


def test_the_python_example_of_the_readme_runs(capsys):
    example = next(block for block in blocks("python") if "import gymnasium" in block)
    exec(example, {})
    said = capsys.readouterr().out
    assert said.startswith("person(name, employer, home_city, mentor, birth_year)")
    assert "total" in said


def test_every_file_that_the_docs_link_to_exists():
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_every_public_name_is_there():
    for name in palaestra.__all__:
        assert getattr(palaestra, name) is not None
