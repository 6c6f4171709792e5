"""infer_cls.py's memory stays flat: what is done with a photo is let go, and photos do not pile up before the CRF."""

import subprocess
import sys

from conftest import REPO
from PIL import Image

# Notes the main process's own memory, kB, at each photo handed over. A photo's class maps take 6 MB.
SCRIPT = """
import sys
import numpy as np
import torch
import infer_cls
from tool.labelling import LabelPool

submit, seen = LabelPool.submit, []


def noted(pool, *photo):
    submit(pool, *photo)
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    seen.append(int(status["RssAnon"].split()[0]))


LabelPool.submit = noted
infer_cls.class_maps = lambda net, views, classes, size, device: torch.rand(8, *size)
infer_cls.load_labels = lambda ids, *_, **__: {i: np.array([1.0] * 8 + [0.0] * 12) for i in ids}
infer_cls.main()
print(*seen, file=sys.stderr)
"""
PHOTOS = 24


def test_memory_does_not_grow_with_the_photos(tiny_weights, tmp_path):
    (tmp_path / "JPEGImages").mkdir()
    ids = [f"p{number}" for number in range(PHOTOS)]
    (tmp_path / "list.txt").write_text("\n".join(ids))
    for image_id in ids:
        Image.new("RGB", (500, 375)).save(tmp_path / f"JPEGImages/{image_id}.jpg")
    flags = ["--voc12_root", tmp_path, "--infer_list", tmp_path / "list.txt", "--weights", tiny_weights]
    flags += ["--network", "network.resnet38_EDAM_tiny", "--num_workers", 1, "--crf_workers", 1]
    command = [sys.executable, "-c", SCRIPT, *flags, "--out_cam", tmp_path / "cam", "--out_crf_pred", tmp_path / "crf"]
    done = subprocess.run([str(word) for word in command], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seen = [int(word) for word in done.stderr.splitlines()[-1].split()]
    assert len(seen) == PHOTOS
    assert max(seen[10:]) - max(seen[:10]) < 20_000, seen  # kB; fourteen photos' class maps would be 80_000
