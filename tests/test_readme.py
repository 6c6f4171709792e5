"""The commands and files that README.md and docs/method.md name exist."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
README = (REPO / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"^```\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if re.match(r"python \S+\.py ", line) and "ARGS" not in line
]


def test_the_commands_were_found():
    scripts = {command.split()[1] for command in COMMANDS}
    assert {"train_deeplab.py", "infer_deeplab.py", "eval.py", "voc12/prepare.py", "train_EDAM_cls.py"} <= scripts


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_flags_that_its_script_knows(command):
    _, script, *words = shlex.split(command, comments=True)
    importlib.import_module(script.removesuffix(".py").replace("/", ".")).get_parser().parse_args(words)


def test_the_files_and_names_of_the_method_page_exist():
    text = (REPO / "docs/method.md").read_text(encoding="utf-8")
    parts = re.findall(r"`(\w+(?:/\w+)*\.py)`(?:: ((?:`[\w.]+`(?:, )?)+))?", text)
    assert len(parts) > 40
    for path, names in parts:
        source = (REPO / path).read_text(encoding="utf-8")
        for name in re.findall(r"`([\w.]+)`", names):
            last = name.rpartition(".")[2]
            assert re.search(rf"(def|class) {last}\b|^{last} = ", source, re.MULTILINE), f"{path} has no {name}"


def test_the_files_of_the_layout_exist():
    layout = README.split("## How the code is laid out")[1].split("## ")[0]
    paths = re.findall(r"`([\w/]+(?:\.py|/))`", layout)
    assert {"train_deeplab.py", "pseudo_label/", "demo/", "measuring.py"} <= set(paths)
    known = [*REPO.iterdir(), *(REPO / "voc12").iterdir()]
    assert not {path.rstrip("/") for path in paths} - {path.name for path in known}
