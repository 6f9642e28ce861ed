"""Compare the cost of this package with that of its peers: `python -m benchmarks` (see `benchmarks.__main__`).

inputs      photos, tables and a model, created once
server      a loopback server that serves the photos with a fixed delay
job         a measurement in a separate process, whose memory is watched
contestants ours and the peers: each loads a model, then scores rows
sections    the measurements: one module per table of docs/performance*.md
results     the results of all runs, kept in build/benchmarks/results.json
render      converts results to Markdown tables and a plot
"""
