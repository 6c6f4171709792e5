"""infer_cls.py's memory is bounded: what is done with a photo is let go, and photos do not pile up before the CRF."""

import subprocess
import sys

from conftest import REPO
from PIL import Image

# Notes the main process's own memory, kB, at each photo handed over. A photo's class maps take 6 MB. The CRF, in a process that has
# these stubs too as it is forked, is slower than what comes before it, as on a GPU.
SCRIPT = """
import sys
import numpy as np
import torch
import infer_cls
from pseudo_label import jobs
from pseudo_label.jobs import JobPool

submit, seen = JobPool.submit, []


def noted(pool, *photo):
    submit(pool, *photo)
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    seen.append(int(status["RssAnon"].split()[0]))


JobPool.submit = noted
infer_cls.class_maps = lambda net, views, classes, size, device: torch.rand(8, *size)
infer_cls.load_labels = lambda ids, *_, **__: {i: np.array([1.0] * 8 + [0.0] * 12) for i in ids}
jobs.dense_crf = lambda photo, scores: np.sort(scores, axis=0)
infer_cls.main()
print(*seen, file=sys.stderr)
"""
PHOTOS = 120


def test_memory_does_not_grow_with_the_photos(tiny_weights, tmp_path):
    (tmp_path / "JPEGImages").mkdir()
    ids = [f"p{number}" for number in range(PHOTOS)]
    (tmp_path / "list.txt").write_text("\n".join(ids))
    for image_id in ids:
        Image.new("RGB", (500, 375)).save(tmp_path / f"JPEGImages/{image_id}.jpg")
    flags = ["--voc12_root", tmp_path, "--infer_list", tmp_path / "list.txt", "--weights", tiny_weights]
    flags += ["--network", "network.resnet38_EDAM_tiny", "--device", "cpu", "--num_workers", 1, "--crf_workers", 1]
    command = [sys.executable, "-c", SCRIPT, *flags, "--out_cam", tmp_path / "cam", "--out_crf_pred", tmp_path / "crf"]
    done = subprocess.run([str(word) for word in command], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seen = [int(word) for word in done.stderr.splitlines()[-1].split()]
    assert len(seen) == PHOTOS
    # kB. Freed blocks lie scattered for a while: the memory levels off some 35_000 above the tenth photo's. All photos' class maps
    # would be 660_000 more.
    assert max(seen) - max(seen[:10]) < 150_000, seen
