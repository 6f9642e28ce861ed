#!/bin/sh
# Fetch the files of transformers.js and ONNX Runtime that a browser loads, from the registry that npm is configured for. Only tests use them; none of them is run here.
# Usage: scripts/fetch_transformers_js.sh FOLDER
set -eu
transformers=4.3.2
runtime=1.31.0-dev.20260914-8d85527a0 # which that version of transformers.js asks for
mkdir -p "$1"
cd "$1"
rm -rf node_modules

# Usage: fetch NAME VERSION DIGEST FILE ...
fetch() {
	archive=$(npm pack --silent "$1@$2")
	echo "$3  $archive" | sha256sum --check --quiet
	folder=node_modules/$1
	shift 3
	mkdir -p "$folder"
	tar -xzf "$archive" -C "$folder" --strip-components=1 "$@"
	rm "$archive"
}

fetch @huggingface/transformers "$transformers" 5414fb47b11ae2a8c10a3aac68f833e6fb6e9bde03e9e612ad7da3ea9e9d2663 package/package.json package/dist/transformers.web.js
fetch onnxruntime-web "$runtime" 0de27582f3e3189dec4a2082513a0af1ea79ae7fd3039bbfe634a526e173cbe0 package/package.json package/dist/ort.webgpu.bundle.min.mjs package/dist/ort-wasm-simd-threaded.asyncify.mjs package/dist/ort-wasm-simd-threaded.asyncify.wasm
fetch onnxruntime-common "$(sed -n 's/.*"onnxruntime-common": "\(.*\)".*/\1/p' node_modules/onnxruntime-web/package.json)" 9b5bcdf0431f93ccdd8ecf74b81c9b06705c700e6d9f5a8e3ba8c913ebb70ab8 package/package.json package/dist/esm
