"""What `scripts/evaluate.py` is made of: play, compare, print, write files, draw the report."""
