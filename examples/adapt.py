"""Adapt a served generator to a target text, watched step by step; Ctrl-C keeps what there is.

python examples/adapt.py zombie --server http://127.0.0.1:7860
"""

import argparse
import shutil

from gradio_client import Client
from tqdm import tqdm

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("target")
parser.add_argument("--source", default="photo")
parser.add_argument("--steps", type=int, default=60)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--server", default="http://127.0.0.1:7860", help="a URL, or user/space")
parser.add_argument("--out", default="domain.safetensors")
args = parser.parse_args()

client = Client(args.server, verbose=False)
job = client.submit(
    source=args.source, target=args.target, steps=args.steps, seed=args.seed, api_name="/adapt"
)
with tqdm(total=args.steps, unit="step") as bar:
    for message in job:
        status = message[1]
        bar.update(status["step"] - bar.n)
        if status["loss"] is not None:
            bar.set_postfix(loss=f"{status['loss']:.3f}")
picture, status, domain_file = message
print(*status["hints"], status["message"], sep="\n")
shutil.copy(domain_file, args.out)
print(f"Before and after: {picture}. The domain: {args.out}.")
