"""The checks of `gpu_check.py`: what is right, what runs, what is fast."""
