"""tool/memory.py: freed memory is reused."""

import subprocess
import sys

import pytest
from conftest import REPO

COUNT_FAULTS = """
import resource
import sys
import torch
from tool.distributed import setup
from tool.memory import keep_freed_memory

def faults(megabytes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(megabytes * 2**18)  # freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

setup("cpu")
print(faults(128), faults(64))  # half as large: an aligned block does not always fit into a freed one of its size
if not keep_freed_memory():  # after the count, which is of what setup did
    sys.exit("not here")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_freed_tensor_is_the_next_ones_memory():
    done = subprocess.run([sys.executable, "-c", COUNT_FAULTS], cwd=REPO, capture_output=True, text=True)
    if done.stderr == "not here\n":
        pytest.skip("this C library allows no large blocks to be kept")
    assert done.returncode == 0, done.stderr
    first, second = map(int, done.stdout.split())
    assert first >= 64  # the first tensor takes new pages, of 2 MB at most
    assert second < first / 20
