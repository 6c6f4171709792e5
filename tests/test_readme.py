"""Commands, files and links in README.md and docs/ exist, and their scripts' parsers accept the flags."""

import fnmatch
import importlib
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from conftest import REPO

from demo.draw import make_devkit
from demo.run import make_demo_steps, make_plan
from voc12.classes import CLASSES
from voc12.dataset import Dataset

PAGES = {path: path.read_text(encoding="utf-8") for path in [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]}
COMMANDS = [
    (path.name, line.strip())
    for path, text in PAGES.items()
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if re.search(r"\b(python|torchrun) .*\.py", line) and "ARGS" not in line
]


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_script_accepts_the_flags(page, command):
    script, flags = re.search(r"(\S+\.py)\b(.*)", command).groups()
    words = shlex.split(flags, comments=True)
    importlib.import_module(script.removesuffix(".py").replace("/", ".")).get_parser().parse_args(words)


def test_examples_name_what_the_demo_makes(tmp_path):
    """Files occur in the demo's commands or among its drawn photos; --classes are those that the photo shows."""
    made = " ".join(step.command for step in make_demo_steps(make_plan(Path("demo_run"), 0))).split()
    make_devkit(tmp_path, seed=0, train=1, val=0, size=128, num_workers=1)
    examples = [command for _, command in COMMANDS if "demo_run/" in command]
    assert len(COMMANDS) > 40 and len(examples) >= 4
    for command in examples:
        for path in re.findall(r"demo_run/(\S+)", command):
            assert f"demo_run/{path}" in made or (tmp_path / path).exists(), command
        for image_id, classes in re.findall(r"--image \S+/(\w+)\.jpg --classes (\S+)", command):
            label = Dataset(tmp_path / "VOC2012").image_labels([image_id], "README.md")[image_id]
            assert [CLASSES[index] for index in np.flatnonzero(label)] == sorted(classes.split(","))


def test_git_ignores_what_the_commands_write():
    patterns = [line.rstrip("/") for line in (REPO / ".gitignore").read_text().splitlines() if line.startswith("/")]
    words = re.findall(r"--(?:out\w*|sheet|download) (\S+)", " ".join(command for _, command in COMMANDS))
    assert {"LOOK", "OUT", "SALIENCY", "RUN", "sheet.png", "real_run"} <= set(words)
    for word in words:
        assert any(fnmatch.fnmatch(f"/{word}", pattern) for pattern in patterns), word


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_linked_files_exist(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", PAGES[page]):
        assert (page.parent / target).exists(), target


def test_layout_names_existing_files():
    text = PAGES[REPO / "README.md"] + (REPO / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:\w+/)*\w+\.py)`", text))
    assert {"train_deeplab.py", "benchmark.py"} <= named
    assert [name for name in named - {"network/NAME.py"} if not any(REPO.glob(f"**/{name}"))] == []


def test_names_of_the_method_page_exist():
    parts = re.findall(r"`(\w+(?:/\w+)*\.py)`(?:: ((?:`[\w.]+`(?:, )?)+))?", PAGES[REPO / "docs/method.md"])
    assert len(parts) > 40
    for path, names in parts:
        source = Path(REPO / path).read_text(encoding="utf-8")
        for name in re.findall(r"`([\w.]+)`", names):
            last = name.rpartition(".")[2]
            assert re.search(rf"(def|class) {last}\b|^{last} = ", source, re.MULTILINE), f"{path} has no {name}"
