"""What nada/formats/README.md quotes of sentences is what is printed, and the other way round."""

import re
import warnings
from pathlib import Path

import pytest
import torch

from nada.checkpoint import CheckpointError, load_generator
from nada.delta import diff
from tests.basicsr_files import basicsr_state, clean
from tests.helpers import adapted, tiny_generator
from tests.nvidia_files import FILTER, snapshot
from tests.other_files import (
    ADDRESSES,
    OTHER_BYTES,
    SMALL,
    UNUSABLE,
    encoder_and_decoder,
    other,
    resnet,
    theirs,
)

README = Path("nada/formats/README.md").read_text(encoding="utf-8")
TABLE = README[README.index("## What is read") : README.index("## Converting")]
QUOTED = re.findall(r'"(.+?)"', TABLE)


def conditional(top):
    top.mapping.c_dim = 10


def another_filter(top):
    top.synthesis.b8.conv0.resample_filter = FILTER.roll(1, 0)


def without(state: dict, name: str) -> dict:
    return {key: value for key, value in state.items() if key != name}


def files(folder: Path):
    """A file of each kind that something is printed of."""
    native = tiny_generator(SMALL)
    state, path = native.state_dict(), folder / "g.pt"
    differing = encoder_and_decoder(native)
    differing["latent_avg"][3] += 1
    contents = {
        "several": {"one": state, "two": other(state)},
        "half": without(state, "convs.1.activate.bias"),
        "a part too many": {**state, "extra": torch.ones(2)},
        "scaled": {k: torch.ones_like(v) if "style" in k else v for k, v in state.items()},
        "rows": differing,
        "plain NVIDIA": theirs(native)[1],
        "plain basicsr": basicsr_state(native),
        "clean basicsr": clean(basicsr_state(native)),
        **{kind: made for kind, (made, _) in UNUSABLE.items()},
    }
    for kind, made in contents.items():
        torch.save(made, path)
        yield kind, path
    for change in (conditional, another_filter, resnet):
        path.write_bytes(snapshot(theirs(native, change)[0]))
        yield f"NVIDIA's {change.__name__}", path
    for data in OTHER_BYTES:
        path.write_bytes(data)
        yield str(data), path
    diff(native, adapted(native, "a", ("convs.1",)), {"target": "a"}).save(path)
    yield "domain", path
    yield from ((address, address) for address in ADDRESSES)


@pytest.fixture(scope="module")
def printed(tmp_path_factory) -> dict[str, str]:
    """Of each kind of file what is printed."""
    said = {}
    for kind, path in files(tmp_path_factory.mktemp("files")):
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                load_generator(path)
            said[kind] = " ".join(str(warning.message) for warning in caught)
        except CheckpointError as error:
            said[kind] = str(error)
    return said


def pattern(quoted: str) -> str:
    return ".*".join(map(re.escape, (part.strip() for part in quoted.split("…"))))


@pytest.mark.parametrize("quoted", QUOTED)
def test_what_the_table_quotes_is_printed(printed, quoted):
    assert len(quoted) > 20 and any(re.search(pattern(quoted), said) for said in printed.values())


def test_what_is_printed_of_others_is_in_the_table(printed):
    for kind in UNUSABLE:
        assert any(re.search(pattern(quoted), printed[kind]) for quoted in QUOTED), printed[kind]
