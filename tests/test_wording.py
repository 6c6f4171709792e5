"""What messages share: counts, what was probably meant, and that of several processes the first one speaks."""

import os
import subprocess
import sys

import pytest
from commands import REPO

from tool import cli
from tool.cli import UserError, counted, nearest_path
from voc12.inputs import check_inputs, label_maps, photos


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


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (["a.npy", "b.npy", "c.txt"], "; it holds 2 files (.npy); name the folder of the label maps"),
        ([], "; name the folder of the label maps"),
    ],
)
def test_a_folder_of_other_files_is_told_from_one_that_lacks_some(tmp_path, held, message):
    folder = tmp_path / "labels"
    folder.mkdir()
    for name in held:
        (folder / name).touch()
    with pytest.raises(UserError, match="holds no label map") as error:
        check_inputs(["a", "b"], [label_maps(folder)])
    assert str(error.value) == f"{folder} holds no label map (<id>.png){message}"
    (folder / "a.png").write_bytes(b"")
    assert [image_id for image_id, _ in check_inputs(["a", "b"], [label_maps(folder)])] == ["a", "b"]


def test_a_folder_above_the_photos_or_of_another_name(tmp_path):
    (tmp_path / "VOC2012").mkdir()
    for folder, hint in (
        (tmp_path, f"; did you mean {tmp_path / 'VOC2012'}?"),
        (tmp_path / "VOC2O12", " is no folder (did you mean VOC2012?): name the folder of the photos"),
    ):
        with pytest.raises(UserError) as error:
            check_inputs(["a"], [photos(folder)])
        assert str(error.value).endswith(hint)


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
