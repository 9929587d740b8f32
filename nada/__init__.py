"""StyleGAN-NADA: move a generator to a new domain by two texts, without an image of it.

What a script needs, by name, and imported when it is first asked for. Two functions share their
names with the modules that hold them: `from nada.adapt import adapt`, `from nada.sample import
sample`.
"""

from importlib import import_module

__version__ = "1.0.0"

_MODULES = {
    "adapt": ("AdaptConfig", "DivergedError", "Progress"),
    "augment": ("Augmented", "RandomViews"),
    "checkpoint": ("CheckpointError", "fingerprint", "load_generator", "save_generator"),
    "clip": ("CLIP", "Encoder", "PromptError", "load_clip", "load_clips"),
    "convert": ("DistilConfig", "closeness", "distil"),
    "delta": ("Delta", "DeltaError", "Strength", "blend", "carry_over", "diff"),
    "generator": ("Generator", "GeneratorConfig"),
    "guidance": (
        "DirectionalLoss",
        "GlobalLoss",
        "GuidanceConfig",
        "InDomainLoss",
        "Target",
        "WeightedSum",
        "build_loss",
        "image_direction",
        "text_direction",
    ),
    "layers": (
        "SELECTORS",
        "SelectionConfig",
        "freeze_all_but",
        "select_by_gradient",
        "select_by_w_shift",
    ),
    "presets": ("PRESETS", "Preset", "prepare", "preset_for"),
    "sample": ("image_grid", "parse_seeds", "to_images"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'nada' has no attribute {name!r}")
    return getattr(import_module(f"nada.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
