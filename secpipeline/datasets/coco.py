"""The former place of :mod:`secpipeline.datasets.formats.coco`."""

from secpipeline.datasets.formats.coco import read_coco, write_coco

__all__ = ["read_coco", "write_coco"]
