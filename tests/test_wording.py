"""What messages share: counts, what was probably meant, and that of several processes the first one speaks."""

import os
import subprocess
import sys

import pytest
from commands import REPO

from tool import cli
from tool.cli import counted, nearest_path


@pytest.mark.parametrize(
    ("things", "one"),
    [
        ("photos", "1 photo"),
        ("XML files without objects", "1 XML file without objects"),
        ("masks of colours", "1 mask of colours"),
        ("of 3 images", "1 of 3 images"),
    ],
)
def test_one_thing_is_singular(things, one):
    assert counted(1, things) == one
    assert [counted(number, things) for number in (0, 2)] == [f"0 {things}", f"2 {things}"]


def test_a_file_that_is_not_there_is_taken_for_the_nearest(tmp_path):
    (tmp_path / "train_aug.txt").touch()
    assert nearest_path(tmp_path / "trainaug.txt") == " (did you mean train_aug.txt?)"
    assert nearest_path(tmp_path / "train_aug/a/b") == " (did you mean train_aug.txt?)"
    assert nearest_path(tmp_path / "else.npy") == nearest_path(tmp_path / "nowhere/train_aug.txt") == ""
    assert nearest_path(tmp_path / "train_aug.txt") == " (it is a file)"


def test_a_mistyped_flag_is_answered_with_the_nearest(capsys):
    parser = cli.Parser("")
    parser.add_argument("--max_epoches")
    parser.add_argument("--voc12_root", required=True)
    for given, nearest in (("--max_epochs", "max_epoches"), ("--voc12root=x", "voc12_root")):
        with pytest.raises(SystemExit, match="2"):
            parser.parse_args([given, "1", "--max_epo", "1"])  # the shorter one is understood
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.endswith(f"; {given.split('=')[0]} (did you mean --{nearest}?)")


FAILS = "from tool.cli import *\ndef main(): raise UserError('all meet it')\nrun_script(main)"


def test_what_all_processes_meet_is_told_once(tmp_path):
    (tmp_path / "script.py").write_text(FAILS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "3", "script.py"]
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1 and done.stderr.count("script.py: error: all meet it\n") == 1
    alone = {**environment, "LOCAL_RANK": "1"}  # nobody ends it
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, env=alone, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "script.py: error: all meet it\n")
