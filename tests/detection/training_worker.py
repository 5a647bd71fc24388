"""A small training as a program of its own: python training_worker.py OUT, or torchrun with it; see the tests."""

import argparse
import dataclasses
import os
import sys
from pathlib import Path

import torch
from rectangles import pictures
from torch import nn

from secpipeline.detection import distributed, weights
from secpipeline.detection.csp import CspTiny
from secpipeline.detection.recipes import EarlyStopping, Recipe
from secpipeline.detection.registry import build
from secpipeline.detection.training import train

CPU = torch.device("cpu")
RECIPE = Recipe("tiny", "csp_tiny", {"channels": [8, 16, 16]}, (64, 64), 4, 5, 0.002, 1e-4, 1, None)
ONE_PRECISION = dataclasses.replace(RECIPE, precision="float32", ema=0.9)
STOPPING = dataclasses.replace(RECIPE, epochs=8, ema=0.9, early_stopping=EarlyStopping("clean", 3))
SCORES = (0.1, 0.5, 0.6, 0.2, 0.6, 0.4, 0.9, 0.9)
IMAGES, PEOPLE = pictures(11, seed=4)  # batches of 5, 5 and 1, so that two processes cannot share them equally


class Frozen(CspTiny):
    """Normalisation evaluates, so that an image's gradient does not depend on who is in its batch."""

    def train(self, mode=True):
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


class Failing(Frozen):
    """Fails in the second process."""

    def losses(self, images, encoded):
        if distributed.current().rank == 1:
            raise MemoryError("the second process has no memory left")
        return super().losses(images, encoded)


def score(detector, epoch):
    """A made-up score of an epoch, which the parent process reads."""
    sys.stdout.write(f"{epoch}\n")
    sys.stdout.flush()
    return SCORES[epoch]


def train_one(recipe, kind, checkpoints=None, validate=None):
    detector = build(recipe.detector, dict(recipe.config), seed=recipe.seed)
    detector.__class__ = kind
    record = train(detector, IMAGES, PEOPLE, recipe, validate=validate, checkpoint_dir=checkpoints, device=CPU)
    detector.__class__ = CspTiny
    return detector, record


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--stopping", action="store_true")
    parser.add_argument("--failing", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe, kind = (STOPPING, CspTiny) if options.stopping else (ONE_PRECISION, Failing if options.failing else Frozen)
    with distributed.joined() as world:
        detector, record = train_one(recipe, kind, options.out / "resume", score if options.stopping else None)
        if world.leads:
            weights.save(detector, options.out / "detector.safetensors")
            (options.out / "world").write_text(f"{record.world_size} {os.environ.get('WORLD_SIZE')}")


if __name__ == "__main__":
    sys.exit(main())
