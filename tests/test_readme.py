"""Commands, files and links in README.md and docs/ exist, and their scripts' parsers accept the flags."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
from conftest import REPO

PAGES = {path: path.read_text(encoding="utf-8") for path in [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]}
COMMANDS = [
    (path.name, line.strip())
    for path, text in PAGES.items()
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if re.search(r"\b(python|torchrun) .*\.py", line) and "ARGS" not in line
]


def test_commands_are_found():
    scripts = {re.search(r"\S+\.py", command)[0] for _, command in COMMANDS}
    assert {"train_EDAM_cls.py", "infer_cls.py", "eval.py", "voc12/prepare.py", "train_deeplab.py"} <= scripts


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_script_accepts_the_flags(page, command):
    script, flags = re.search(r"(\S+\.py)\b(.*)", command).groups()
    words = shlex.split(flags, comments=True)
    importlib.import_module(script.removesuffix(".py").replace("/", ".")).get_parser().parse_args(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_linked_files_exist(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", PAGES[page]):
        assert (page.parent / target).exists(), target


def test_layout_names_existing_files():
    text = PAGES[REPO / "README.md"] + (REPO / "CONTRIBUTING.md").read_text(encoding="utf-8")
    files = {path.relative_to(REPO).as_posix() for path in REPO.glob("**/*.py")}
    known = files | {file.rpartition("/")[2] for file in files}
    named = set(re.findall(r"`((?:\w+/)*\w+\.py)`", text))
    assert {"train_deeplab.py", "benchmark.py"} <= named
    assert not named - known - {"network/NAME.py"}


def test_names_of_the_method_page_exist():
    parts = re.findall(r"`(\w+(?:/\w+)*\.py)`(?:: ((?:`[\w.]+`(?:, )?)+))?", PAGES[REPO / "docs/method.md"])
    assert len(parts) > 40
    for path, names in parts:
        source = Path(REPO / path).read_text(encoding="utf-8")
        for name in re.findall(r"`([\w.]+)`", names):
            last = name.rpartition(".")[2]
            assert re.search(rf"(def|class) {last}\b|^{last} = ", source, re.MULTILINE), f"{path} has no {name}"
