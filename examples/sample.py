"""Draw pictures of seeds by a served generator, with a domain file at some strength or without.

python examples/sample.py --seeds 1-8 --domain domain.safetensors --strength 0.7
"""

import argparse
import shutil

from gradio_client import Client, handle_file

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--seeds", default="1-8")
parser.add_argument("--domain", help="a domain file; none for the generator itself")
parser.add_argument("--strength", type=float, default=1.0)
parser.add_argument("--truncation", type=float, default=0.7)
parser.add_argument("--server", default="http://127.0.0.1:7860", help="a URL, or user/space")
parser.add_argument("--out", default="samples.png")
args = parser.parse_args()

client = Client(args.server, verbose=False)
picture = client.predict(
    seeds=args.seeds,
    domain_file=handle_file(args.domain) if args.domain else None,
    strength=args.strength,
    truncation=args.truncation,
    api_name="/sample",
)
shutil.copy(picture, args.out)
print(f"Saved {args.out}.")
