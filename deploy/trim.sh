#!/bin/sh
# Deletes files that an environment with the small install does not need: Arrow's Flight, headers and duplicates, ONNX Runtime's tools, and tests. Saves 60 MB.
# Usage: deploy/trim.sh SITE_PACKAGES
set -eu
cd "$1"
rm -rf pyarrow/libarrow_flight* pyarrow/libarrow_python_flight* pyarrow/_flight* \
	pyarrow/include pyarrow/src pyarrow/tests onnxruntime/transformers onnxruntime/tools onnxruntime/datasets
# A wheel has no links, so these are copies of the libraries that are loaded, libarrow_python*.so.NUMBER.
rm -f pyarrow/libarrow_python*.so pyarrow/libarrow_python*.so.*.*
find numpy -type d -name tests -prune -exec rm -rf {} +
