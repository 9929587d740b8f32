"""Adapt a served generator and wait for the end, in one call.

python examples/adapt_once.py "pencil sketch" --server http://127.0.0.1:7860
"""

import argparse
import shutil

from gradio_client import Client

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("target")
parser.add_argument("--source", default="photo")
parser.add_argument("--steps", type=int, default=60)
parser.add_argument("--server", default="http://127.0.0.1:7860", help="a URL, or user/space")
parser.add_argument("--out", default="domain.safetensors")
args = parser.parse_args()

client = Client(args.server, verbose=False)
picture, status, domain_file = client.predict(
    source=args.source, target=args.target, steps=args.steps, api_name="/adapt_once"
)
shutil.copy(domain_file, args.out)
print(f"{status['message']} Before and after: {picture}. The domain: {args.out}.")
