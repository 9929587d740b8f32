"""The app as a machine with a GPU starts it: the Hub's generators are offered, the CPU does it."""

import app
from nada import catalogue, offers

if __name__ == "__main__":
    offers.servable = lambda gpu: catalogue.servable("a GPU")
    app.main()
