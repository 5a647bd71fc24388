"""How a bill refers to files: by name and by the first digits of their SHA-256.

>>> reference(("train/detector.safetensors", "8939a465658aa9dfba5b9033c117b049"))
'train/detector.safetensors@8939a465658a'
>>> attestation("train")
'attestations/train.dsse.json'
"""

from __future__ import annotations

File = tuple[str, str]  # artifact name and SHA-256


def reference(file: File) -> str:
    """The bom-ref of a file."""
    return f"{file[0]}@{file[1][:12]}"


def attestation(stage: str) -> str:
    """The name of the envelope of a stage's Statement."""
    return f"attestations/{stage}.dsse.json"


def first_part(name: str) -> str:
    """The first part of a name: the stage that made the file, or the kind of file that no stage made."""
    return name.partition("/")[0]
