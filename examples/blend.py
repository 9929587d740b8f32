"""Mix up to three domain files on a server, into pictures and a domain file of its own.

python examples/blend.py zombie.safetensors sketch.safetensors --weights "0.6, 0.6"
"""

import argparse
import shutil

from gradio_client import Client, handle_file

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("domains", nargs="+")
parser.add_argument("--weights", default="", help='a number each, "0.6, 0.6" (default: equal)')
parser.add_argument("--seeds", default="1-8")
parser.add_argument("--server", default="http://127.0.0.1:7860", help="a URL, or user/space")
parser.add_argument("--out", default="mix.safetensors")
args = parser.parse_args()

client = Client(args.server, verbose=False)
picture, mixed = client.predict(
    domain_files=[handle_file(domain) for domain in args.domains],
    weights=args.weights,
    seeds=args.seeds,
    api_name="/blend",
)
shutil.copy(mixed, args.out)
print(f"Pictures: {picture}. The mix: {args.out}.")
