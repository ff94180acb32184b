"""The benchmark of loads beside other tools, run by `make bench`.

`sandboxes` runs the Wix sandbox in a process of its own. `ours`, `ours_by_prefect` and
`peers/` are the candidates: programs that each process one `task`. `measures` defines what is
measured, `floors` computes lower bounds, `report` and `plot` show the results. `many_sites` is
a separate program about loads of many sites.
"""
