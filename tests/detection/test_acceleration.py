import multiprocessing

import torch

from secpipeline.detection.acceleration import take_turn


def test_processes_side_by_side_take_the_accelerators_in_turn(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    turn = multiprocessing.get_context("spawn").Value("i", 0)
    for _ in range(5):
        take_turn(turn)
    assert chosen == [0, 1, 0, 1, 0]


def test_without_an_accelerator_there_is_nothing_to_take(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: 1 / 0)
    turn = multiprocessing.get_context("spawn").Value("i", 0)
    take_turn(turn)
    assert turn.value == 1
