"""Tell what a domain file says of itself, and whether it fits the generator that a server has.

python examples/domain.py domain.safetensors
"""

import argparse

from gradio_client import Client, handle_file

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("domain")
parser.add_argument("--server", default="http://127.0.0.1:7860", help="a URL, or user/space")
args = parser.parse_args()

told = Client(args.server, verbose=False).predict(
    domain_file=handle_file(args.domain), api_name="/domain"
)
for name, value in told.items():
    if value is not None:
        print(f"{name}: {value}")
