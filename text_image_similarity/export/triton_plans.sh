#!/bin/sh
# Build the plans of both towers on the GPU that will run them, with TensorRT's trtexec (10.12 or newer).
# A plan is bound to this GPU and to this version of TensorRT, which must be the server's. Usage: ./build_plans.sh
set -eu
cd "$(dirname "$0")"
typed=
# Since TensorRT 11 every network has the types of its graph; before, that is an option.
if trtexec --help 2>&1 | grep -q -e --stronglyTyped; then typed=--stronglyTyped; fi
build() {{
	# The server must never find half a plan.
	trtexec "--onnx=$1/model.onnx" "--saveEngine=$1/1/model.plan.partial" $typed "--minShapes=$2" "--optShapes=$3" "--maxShapes=$4"
	mv "$1/1/model.plan.partial" "$1/1/model.plan"
}}
build image pixels:1x{shape} pixels:{usual}x{shape} pixels:{most}x{shape}
build text input_ids:1x{short} input_ids:{usual}x{long} input_ids:{most}x{long}
