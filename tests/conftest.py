"""Fixtures that several test files share."""

import pytest
import torch

from tests.helpers import tiny_generator


@pytest.fixture(autouse=True)
def _fixed_seed():
    """Every test draws the same numbers, alone and in any order."""
    torch.manual_seed(0)


@pytest.fixture
def generator():
    """A tiny generator (16 pixels, w of 16), new for each test."""
    return tiny_generator()
