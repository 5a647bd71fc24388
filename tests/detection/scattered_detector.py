"""A detector that needs no training to find something: boxes and scores differ from place to place."""

import torch

from secpipeline.detection.registry import build


def scattered(seed=0, size=(96, 128)):
    """An untrained csp_tiny, its heads drawn at random and scaled so that about one place in ten scores 0.1 or more."""
    detector = build("csp_tiny", {"channels": [8, 16, 16]}, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    sample = torch.rand(4, 3, *size, generator=generator)
    with torch.no_grad():
        for head in (detector.centre, detector.scale, detector.offset):
            head.weight.copy_(torch.randn(head.weight.shape, generator=generator))
        detector.train()
        for _ in range(40):  # whatever statistics the network keeps settle
            detector.maps(sample)
        detector.eval()
        for head, index, spread in ((detector.centre, 0, 1.5), (detector.scale, 1, 0.3), (detector.offset, 2, 0.3)):
            head.weight.mul_(spread / detector.maps(sample)[index].std())
        detector.centre.bias.sub_(4 + detector.logits(sample).mean())
    return detector
