"""Measure the cost of this package and its peers side by side: `python -m benchmarks` (see `benchmarks.__main__`).

inputs      photos, tables and a model, made once
server      a loopback server that hands the photos out with a set delay
child       one measurement in a process of its own; `job` starts it and watches its memory
contestants ours and the peers: each loads a model, then scores rows
sections    what is measured: one module per table of docs/performance.md
results     build/benchmarks/results.json
render      results -> Markdown tables and a plot
"""
