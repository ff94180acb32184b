"""What a load costs, beside what a person would pick instead: `make bench`.

`shop` plays Wix in a process of its own. `ours` and `peers/` are the contestants: programs that are
given one task each, as `contest` says. `measures` is what is measured, `floors` the arithmetic that
nobody can beat, `report` and `plot` what becomes of it.
"""
