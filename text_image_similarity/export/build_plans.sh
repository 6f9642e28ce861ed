#!/bin/sh
# Build TensorRT plans from this folder's graphs on the GPU that will run them: image.plan and text.plan, each with a
# manifest next to it. A plan works only on this kind of GPU with this version of TensorRT.
#
#   TRTEXEC=/path/to/trtexec DEVICE=0 ./build_plans.sh
set -eu
cd "$(dirname "$0")"
trtexec=${TRTEXEC:-trtexec}
device=${DEVICE:-0}
opset=@OPSET@

command -v "$trtexec" >/dev/null || {
    echo "trtexec was not found; install TensorRT 10 or 11, or set TRTEXEC" >&2
    exit 1
}

fail() {
    echo "$1" >&2
    exit 1
}

# In trtexec's log: "[TensorRT v110400]" is 11.4.0.
version_of() {
    code=$(sed -n 's/.*\[TensorRT v\([0-9]\{5,6\}\)\].*/\1/p' "$1" | head -n 1)
    [ -n "$code" ] || fail "$1 does not name the version of TensorRT"
    echo "$((code / 10000)).$((code / 100 % 100)).$((code % 100))"
}

gpu_of() {
    sed -n 's/.*Selected Device: *//p' "$1" | head -n 1 | sed 's/[[:space:]]*$//; s/["\\]//g'
}

hash_of() {
    sha256sum "$1" | cut -d ' ' -f 1
}

"$trtexec" --help >build_plans.log 2>&1 || true
version=$(version_of build_plans.log)
major=${version%%.*}
rest=${version#*.}
minor=${rest%%.*}
case $major in
10) typed=--stronglyTyped ;;  # precision comes from the types in the files; 11 has no other mode
11) typed= ;;
*) fail "TensorRT $version was found; these graphs are for TensorRT 10 and 11" ;;
esac
if [ "$opset" -ge 23 ] && [ "$major" -eq 10 ] && [ "$minor" -lt 14 ]; then
    fail "TensorRT $version does not read the attention of opset $opset; use TensorRT 10.14 or newer, or export with --opset 20"
fi

build() { # tower, profiles as JSON, options of trtexec
    tower=$1 profiles=$2
    shift 2
    rm -f "$tower.plan" "$tower.plan.json"
    echo "building $tower.plan with TensorRT $version, which takes minutes"
    # shellcheck disable=SC2086  # $typed is one option or none
    "$trtexec" --onnx="$tower.onnx" --saveEngine="$tower.plan.part" --device="$device" --skipInference $typed "$@" \
        >"$tower.plan.log" 2>&1 || {
        tail -n 20 "$tower.plan.log" >&2
        fail "$tower.plan could not be built; $tower.plan.log says why"
    }
    gpu=$(gpu_of "$tower.plan.log")
    [ -n "$gpu" ] || fail "$tower.plan.log does not name the GPU"
    onnx="\"$tower.onnx\": \"$(hash_of "$tower.onnx")\""
    if [ -f "$tower.onnx.data" ]; then
        onnx="$onnx, \"$tower.onnx.data\": \"$(hash_of "$tower.onnx.data")\""
    fi
    printf '{"gpu": "%s", "tensorrt": "%s", "onnx": {%s}, "plan": "%s", "profiles": %s}\n' \
        "$gpu" "$version" "$onnx" "$(hash_of "$tower.plan.part")" "$profiles" >"$tower.plan.json.part"
    mv "$tower.plan.part" "$tower.plan"
    mv "$tower.plan.json.part" "$tower.plan.json"
}

build image '@IMAGE_PROFILES@' @IMAGE_OPTIONS@
build text '@TEXT_PROFILES@' \
    @TEXT_OPTIONS@
echo "image.plan and text.plan are for $gpu with TensorRT $version"
