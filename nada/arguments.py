"""The command line of the page's server."""

import argparse

from nada.library import KEEP_SECONDS


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """What the server was told; `arguments` are those of the process unless given."""
    parser = argparse.ArgumentParser(description="Serve the page of StyleGAN-NADA.")
    for name, default, meaning in (
        ("--generator", "auto", '"auto", "demo", "ffhq", a file, or "org/repo:file" of the Hub'),
        ("--clip", "auto", '"auto", "demo", a file, "ViT-B/32", or A+B'),
        ("--device", "auto", '"auto", "cpu", or another of torch\'s'),
        ("--host", None, "address to listen on"),
        ("--port", None, "port to listen on"),
        ("--keep", KEEP_SECONDS / 60, "minutes for which visitors are remembered"),
    ):
        of = {"--port": int, "--keep": float}.get(name, str)
        parser.add_argument(name, default=default, type=of, help=f"{meaning} (default: {default})")
    parser.add_argument("--mcp", action="store_true", help="offer the endpoints as MCP tools too")
    return parser.parse_args(arguments)
