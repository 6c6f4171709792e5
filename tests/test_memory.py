"""tool/memory.py: freed memory is used again."""

import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
COUNT_FAULTS = """
import resource
import torch
from tool.distributed import setup

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**23)  # 32 MB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

setup("cpu")
print(*(faults() for _ in range(8)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_a_freed_tensor_is_the_next_ones_memory():
    done = subprocess.run([sys.executable, "-c", COUNT_FAULTS], cwd=REPO, capture_output=True, text=True, check=True)
    first, *later = map(int, done.stdout.split())
    assert first >= 16  # it counts: the first tensor takes new pages, of 2 MB at most
    assert min(later) < first / 10  # an aligned block is not found again every time
