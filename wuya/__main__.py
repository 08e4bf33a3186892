"""`python -m wuya`, and what torchrun starts: `torchrun --nproc_per_node 2 -m wuya pretrain ...`."""

from wuya.cli import entry_point

if __name__ == "__main__":
    entry_point()
