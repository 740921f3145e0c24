"""``python -m covarium``, and ``torchrun -m covarium train …`` for several devices."""

from covarium.cli import main

main()
