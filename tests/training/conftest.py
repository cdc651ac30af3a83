"""fsync would be most of these tests' time; that data reach the disk in order is tested by itself."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
