"""The lines of the benchmark; `EVERY` is what `speed.py` measures."""

from lines import epoch, growth, scale, training

EVERY = (*epoch.LINES, *training.LINES, *scale.LINES, *growth.LINES)
