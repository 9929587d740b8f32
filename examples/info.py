"""Tell what a server runs, its limits and the words that its CLIP knows.

python examples/info.py --server http://127.0.0.1:7860
"""

import argparse

from gradio_client import Client

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--server", default="http://127.0.0.1:7860", help="a URL, or user/space")
args = parser.parse_args()

for name, value in Client(args.server, verbose=False).predict(api_name="/info").items():
    print(f"{name}: {value}")
