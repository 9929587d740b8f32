"""Experiments on the method: specifications (`*.toml`) for `python -m nada sweep`, what only they
need (`variants`), and rules for when to stop (`stopping`)."""
