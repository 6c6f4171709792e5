"""Checkpoints of strangers: other wrappers, prefixes and objects around the tensors."""

import argparse
import datetime
import os
import random
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from weight_files import small_tensors, torch_bytes

from network.state_dict import read_state_dict
from network.weights import load_weights
from tool.cli import UserError
from tool.weight_file import read_torch_file

both_formats = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


def write(path: Path, value: object, legacy: bool = False) -> Path:
    path.write_bytes(torch_bytes(value, legacy))
    return path


class Hostile:
    """Makes a file when it is unpickled, at each of the ways that a class has for it."""

    def __init__(self, *arguments):
        Path("hostile").touch()

    def __setstate__(self, state):
        Path("hostile").touch()

    def __reduce__(self):
        return Hostile, (1,), {"a": 2}


@both_formats
def test_tensors_of_training_states_with_other_objects(tmp_path, legacy, monkeypatch):
    monkeypatch.chdir(tmp_path)
    others = {
        "best": np.float64(0.5),
        "args": argparse.Namespace(lr=0.1, path=Path("a")),
        "device": torch.device("cuda:3"),
        "random": (np.random.RandomState(0).get_state(), random.Random(0).getstate()),
        "when": datetime.datetime(2021, 6, 1),
        "hostile": Hostile(),
    }
    state = nn.Linear(2, 2).state_dict()
    path = write(tmp_path / "a.pth", {**others, "state_dict": state}, legacy)
    os.remove("hostile")
    before = set(torch.serialization.get_safe_globals())
    read = read_state_dict(path)
    assert list(read) == ["weight", "bias"] and torch.equal(read["weight"], state["weight"])
    with pytest.raises(UserError, match=r"it asks for [\w.]+, which is refused because it could run code$"):
        read_torch_file(path)  # as a state to resume from
    assert set(torch.serialization.get_safe_globals()) == before
    assert not os.path.exists("hostile")
    torch.load(path, weights_only=False)
    assert os.path.exists("hostile")  # it would have worked


class Config(dict):
    """Of the kind that is common in training states."""


STATES = {
    "module": nn.Linear(2, 2),
    "wrapped module": {"net": nn.Linear(2, 2), "epoch": 3},
    "state with a kind of dict": {"weights": nn.Linear(2, 2).state_dict(), "options": Config(lr=0.1)},
}


# The legacy format refers to a module's source, before torch.load knows where in the state it is.
@pytest.mark.parametrize(
    ("name", "legacy"), [(name, legacy) for name in STATES for legacy in (False, True) if not (legacy and "wr" in name)]
)
def test_the_command_that_saves_tensors_anew_works(tmp_path, name, legacy):
    path = write(tmp_path / "it's $HOME.pth", STATES[name], legacy)
    with pytest.raises(UserError, match="only if you trust who made it") as error:
        read_state_dict(path)
    assert "\n" not in str(error.value)
    command = str(error.value).split("save its tensors anew: python ")[1]
    environment = {"PYTHONPATH": str(Path(__file__).parent)}
    subprocess.run(f"{shlex.quote(sys.executable)} -W ignore {command}", shell=True, check=True, env=environment)
    assert list(read_state_dict(f"{path}.tensors.pth")) == ["weight", "bias"]


def test_what_could_run_code_is_named(tmp_path):
    with pytest.raises(UserError, match="it asks for print, which is refused because it could run code; only if you"):
        read_state_dict(write(tmp_path / "a.pth", {"a": print}))
    many = {name: type(name, (), {"__module__": "many"}) for name in (f"Class{number}" for number in range(51))}
    sys.modules["many"] = argparse.Namespace(**many)
    path = write(tmp_path / "a.pth", {"all": [kind() for kind in many.values()], "net": small_tensors()})
    with pytest.raises(UserError, match=r"it asks for many\.Class50, which is refused"):
        read_state_dict(path)


@pytest.mark.parametrize(
    "wrappers",
    [
        ("model_state_dict",),
        ("model_state",),
        ("params",),
        ("model", "state_dict"),
        ("a_name_of_their_own",),
        ("net", "model", "params"),
    ],
    ids=str,
)
def test_wrappers(tmp_path, wrappers):
    saved = small_tensors()
    for name in reversed(wrappers):
        saved = {"epoch": 3, "optimizer": {"state": {}, "lr": [0.1]}, name: saved}
    assert list(read_state_dict(write(tmp_path / "a.pth", saved))) == ["a.weight", "b"]


def test_options_under_a_wrappers_name_are_passed_over(tmp_path):
    saved = {"params": {"lr": 0.1}, "model": {"name": "EDAM"}, "net": small_tensors()}
    assert list(read_state_dict(write(tmp_path / "a.pth", saved))) == ["a.weight", "b"]
    saved = {"generator": small_tensors(), "discriminator": small_tensors()}
    for _ in range(2):
        with pytest.raises(UserError, match="'generator' is a dict"):
            read_state_dict(write(tmp_path / "a.pth", saved))
        saved["model"] = saved


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.module.", "model.", "net.", "model._orig_mod.module.net."])
def test_prefixes_before_all_names_are_removed(tmp_path, prefix):
    state = {f"{prefix}{name}": tensor for name, tensor in small_tensors().items()}
    assert list(read_state_dict(write(tmp_path / "a.pth", state))) == ["a.weight", "b"]
    state["c"] = torch.ones(1)
    assert list(read_state_dict(write(tmp_path / "a.pth", state))) == list(state)


def test_a_network_whose_own_names_have_such_a_prefix(tmp_path):
    net = nn.Module()
    net.model = nn.Linear(2, 2)
    for saved in (net.state_dict(), nn.DataParallel(net).state_dict()):
        report = load_weights(net, write(tmp_path / "a.pth", saved))
        assert report.loaded == 2 and not report.missing
