"""The procedural portrait world: a renderer with ground truth, and the scripts that train the
bundled generator, CLIP and judge on nothing but its images."""
