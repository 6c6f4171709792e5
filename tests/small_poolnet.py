"""PoolNets small enough for tests of the scripts."""

from functools import partial

from network import poolnet

OPTIONS = {"depths": (1, 1, 1, 1), "widths": (4, 8, 8, 8, 8), "laterals": (4, 4, 4, 4, 4), "width": 4, "std": None}
Net, JointNet = partial(poolnet.Net, **OPTIONS), partial(poolnet.JointNet, **OPTIONS)
