#!/bin/sh
# Deletes what nothing here loads from an environment with the small install: Arrow's Flight and headers, ONNX Runtime's tools, and tests. 55 MB.
# Usage: deploy/trim.sh SITE_PACKAGES
set -eu
cd "$1"
rm -rf pyarrow/libarrow_flight* pyarrow/libarrow_python_flight* pyarrow/_flight* \
	pyarrow/include pyarrow/src pyarrow/tests onnxruntime/transformers onnxruntime/tools onnxruntime/datasets
find numpy -type d -name tests -prune -exec rm -rf {} +
