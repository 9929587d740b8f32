"""Fixtures that several test files share: models, servers, a browser."""

import os

# tests run beside each other, and so does what they start: a thread each
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from nada.serve.models import ServedModels
from tests.api import connect
from tests.helpers import make_clip, quick_first, tiny_generator
from tests.page import WIDTHS, chromium, visits
from tests.served import serve

# the same operations on every machine; tests/test_op*.py go through all of them
os.environ.setdefault("NADA_OP", "reference")


@pytest.fixture(autouse=True)
def _fixed_seed():
    """Every test draws the same numbers, alone and in any order."""
    torch.manual_seed(0)


# Models


@pytest.fixture
def generator():
    """A tiny generator (16 pixels, w of 16), new for each test."""
    return tiny_generator()


@pytest.fixture(scope="session")
def clip_a():
    """The CLIP that the reference programs were run with: random weights, 64 pixels."""
    return make_clip("a", 64, 64, 2, 128, 16, 77, 49408, 128, 2, 2)


@pytest.fixture(scope="session")
def clip_tiny():
    """A CLIP that costs nothing: one layer, 16 pixels, prompts of 24 tokens."""
    return make_clip("tiny", 16, 16, 1, 64, 8, 24, 49408, 64, 1, 1)


@pytest.fixture
def models(generator, clip_tiny):
    """What a server trains with."""
    return ServedModels(generator, [clip_tiny])


# Servers


@pytest.fixture(scope="session")
def server(tmp_path_factory, clip_tiny):
    """The app in a process of its own, with tiny models that adapt in moments."""
    patient = ("--keep", "600")  # a run that nobody follows goes on for minutes on a busy machine
    with serve(tmp_path_factory.mktemp("served"), clip_tiny, "--mcp", *patient) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    """A visitor of `server` by its API."""
    visitor = connect(server)
    yield visitor
    visitor.close()


# The page


@pytest.fixture(scope="session")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture
def visit(browser, server):
    """Open the page; at the end, fail on any request to elsewhere, page error, failed request."""
    with visits(browser, server) as visit:
        yield visit


@pytest.fixture(params=quick_first(*WIDTHS.values()), ids=WIDTHS)
def page(visit, request):
    """The open page, at the width of a desk and of a phone."""
    return visit(request.param)
