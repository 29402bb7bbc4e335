"""The campaign: faults on purpose, and a count of what they cost.

A run is killed at some moment, dies between two writes, finds the disk full, or meets a damaged file. It is lost if it
cannot go on, ends otherwise than undisturbed, leaves a file or a process behind, hangs, shows a traceback where a line
is due, or is wrong in silence. `rows` lists the kinds; ``make faults`` tries them all and prints a table, and
test_faults.py tries a few of each.
"""
