"""Config -> objects, by part; effbench/build.py is the door to them."""
