"""The app as a machine with a GPU starts it: the Hub's generators are offered, the CPU does it."""

import app
from nada.formats import catalogue
from nada.serve import generators

if __name__ == "__main__":
    generators.servable = lambda gpu: catalogue.servable("a GPU")
    app.main()
