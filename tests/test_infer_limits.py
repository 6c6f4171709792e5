"""Photos that there is no memory for, and a small /dev/shm: named, skipped where asked, and never waited for."""

import math
import subprocess
import sys

import pytest
from conftest import REPO

from voc12.images import load_label

# infer_cls.py, with a network that has no memory for photos wider than high.
SCRIPT = """
import sys
import infer_cls
import torch

maps = infer_cls.class_maps

def limited(net, views, classes, size, device):
    if size[1] > size[0]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB") if ERROR else RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    return maps(net, views, classes, size, device)

infer_cls.class_maps = limited
from tool.cli import run_script
run(infer_cls.main)
"""


@pytest.mark.parametrize("of_gpu", [False, True])
def test_photos_without_memory_are_named_and_skipped(of_gpu, drawn, tiny_weights, tmp_path):
    ids = [f"2099_{number:06d}" for number in range(1, 7)]
    (tmp_path / "list.txt").write_text("\n".join(ids))
    sizes = {i: load_label(drawn / f"SegmentationClass/{i}.png").shape for i in ids}
    wide = [i for i in ids if sizes[i][1] > sizes[i][0]]
    assert 0 < len(wide) < 6
    command = [
        sys.executable,
        "-c",
        SCRIPT.replace("ERROR", str(of_gpu)),
        "--voc12_root",
        drawn,
        "--out_cam_pred",
        "out",
    ]
    command += ["--infer_list", "list.txt", "--weights", tiny_weights, "--network", "network.resnet38_EDAM_tiny"]
    command += ["--num_workers", 0, "--crf_workers", 0, "--device", "cpu"]

    def infer(*more: str) -> list[str]:
        words = [str(word) for word in (*command, *more)]
        env = {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", "PATH": ""}
        done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200)
        assert done.returncode == 1
        return [line for line in done.stderr.splitlines() if line and "photo/s" not in line and "?photo" not in line]

    before = [sizes[i] for i in ids[: ids.index(wide[0])]]
    fitted = "; the largest that fitted was {1}x{0}".format(*max(before, key=math.prod)) if before else ""
    size = "{1}x{0} pixels: out of memory{2}; smaller photos or --amp bf16 need less".format(*sizes[wide[0]], fitted)
    (line,) = infer()
    assert line.startswith(f"-c: error: photo {wide[0]}, {size}")
    lines = infer("--skip_errors")
    assert [line.split(":")[0] for line in lines[:-1]] == [f"skipped {i}" for i in wide]
    assert lines[-1] == f"-c: error: skipped {len(wide)} photos, listed above"
    assert sorted(path.stem for path in (tmp_path / "out").glob("*.png")) == sorted(set(ids) - set(wide))


def test_a_small_dev_shm(drawn, tiny_weights, tmp_path):
    """Smaller still than in containers, as the photos are. Where no disk can be mounted, tests/test_loading.py has its stand-in."""
    ids = [f"2099_{number:06d}" for number in range(1, 21)]
    (tmp_path / "list.txt").write_text("\n".join(ids))
    infer = [
        sys.executable,
        REPO / "infer_cls.py",
        "--voc12_root",
        drawn,
        "--infer_list",
        "list.txt",
        "--num_workers",
        4,
    ]
    infer += [
        "--weights",
        tiny_weights,
        "--network",
        "network.resnet38_EDAM_tiny",
        "--out_cam_pred",
        "out",
        "--device",
        "cpu",
    ]
    mounted = 'mount -t tmpfs -o size=300k tmpfs /dev/shm && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mounted, "sh", *map(str, infer)]
    may_mount = subprocess.run(["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True)
    if may_mount.returncode:
        command = command[6:]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert may_mount.returncode or "note: /dev/shm is full, so photos are read one by one" in done.stdout
    assert sorted(path.stem for path in (tmp_path / "out").glob("*.png")) == ids
