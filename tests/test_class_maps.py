"""Class maps of a photo against a plain loop."""

import torch
import torch.nn.functional as F

from pseudo_label.predict import class_maps
from tests.small_net import Net


def test_class_maps_sum_views_and_mirror_images():
    torch.manual_seed(0)
    net, size, classes = Net().eval(), (48, 64), [3, 7]
    photo_views = [torch.randint(0, 256, (side, side + 16, 3), dtype=torch.uint8) for side in (48, 24)]
    expected = torch.zeros(2, *size)
    with torch.no_grad():
        for view in photo_views:
            image = net.input.normalise(view)[None]
            masks = [net.forward_cam(image), net.forward_cam(image.flip(-1)).flip(-1)]
            for mask in masks:
                expected += F.interpolate(mask[:, classes], size, mode="bilinear", align_corners=False)[0]
    expected /= expected.amax(dim=(1, 2), keepdim=True)
    found = class_maps(net, photo_views, classes, size, torch.device("cpu"))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert class_maps(net, photo_views, [], size, torch.device("cpu")).shape == (0, *size)
