"""Draw pictures of seeds by a served generator, with a domain file at some strength or without.

python examples/sample.py --seeds 1-8 --domain domain.safetensors --strength 0.7
python examples/sample.py --domain domain.safetensors --strength 1 0.5 0
"""

import argparse
import shutil

from gradio_client import Client, handle_file

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--seeds", default="1-8")
parser.add_argument("--domain", help="a domain file; none for the generator itself")
parser.add_argument(
    "--strength",
    type=float,
    nargs="+",
    default=[1.0],
    help="one number, or three for the coarse, middle and fine layers (default: 1)",
)
parser.add_argument("--truncation", type=float, default=0.7)
parser.add_argument("--server", default="http://127.0.0.1:7860", help="a URL, or user/space")
parser.add_argument("--out", default="samples.png")
args = parser.parse_args()
if len(args.strength) not in (1, 3):
    parser.error("--strength: give one number, or three.")

strength = args.strength[0]
if len(args.strength) == 3:
    strength = dict(zip(("coarse", "middle", "fine"), args.strength))
client = Client(args.server, verbose=False)
picture = client.predict(
    seeds=args.seeds,
    domain_file=handle_file(args.domain) if args.domain else None,
    strength=strength,
    truncation=args.truncation,
    api_name="/sample",
)
shutil.copy(picture, args.out)
print(f"Saved {args.out}.")
