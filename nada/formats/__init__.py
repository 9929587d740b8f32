"""Generators and CLIP models from files of any origin: found, fetched and read as data."""
