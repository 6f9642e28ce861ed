#!/bin/sh
# Fetch NVIDIA's Triton Inference Server into a folder, from the wheel of nvidia-pytriton, with a Python environment for the models of its python backend. Only tests use it.
# It starts with FOLDER/bin/tritonserver. Usage: scripts/fetch_triton.sh FOLDER [PYTHON]
set -eu
python=${2:-python3}
version=0.7.0
digest=21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df
rm -rf "$1"
mkdir -p "$1/bin" "$1/lib" "$1/backends"
folder=$(cd "$1" && pwd)
lock=$(dirname "$0")/../poetry.lock

# The versions that the package itself is tested with, but for NumPy: the server's bindings know 1.x alone.
pinned() {
	sed -n "/^name = \"$1\"\$/{n;s/version = \"\(.*\)\"/$1==\1/p;}" "$lock"
}

"$python" -m pip download --quiet --no-deps --dest "$folder" "nvidia-pytriton==$version"
wheel=$(echo "$folder"/nvidia_pytriton-*.whl)
echo "$digest  $wheel" | sha256sum --check --quiet
"$python" - "$wheel" "$folder" <<-'EOF'
	import sys, sysconfig, zipfile
	from pathlib import Path

	folder, (major, minor) = Path(sys.argv[2]), sys.version_info[:2]
	server = "pytriton/tritonserver/"
	places = {
	    "nvidia_pytriton.libs/": "lib/",
	    server + "bin/tritonserver": "lib/tritonserver",
	    server + "backends/python/": "backends/python/",
	    f"{server}python_backend_stubs/{major}.{minor}/": "backends/python/",
	}
	with zipfile.ZipFile(sys.argv[1]) as wheel:
	    for name in wheel.namelist():
	        for start, place in places.items():
	            if name.startswith(start) and not name.endswith("/"):
	                target = folder / (place + name.removeprefix(start))
	                target.parent.mkdir(parents=True, exist_ok=True)
	                target.write_bytes(wheel.read(name))
	library = Path(sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME"))
	if library.suffix != ".a" and library.is_file():
	    (folder / "lib" / library.name).symlink_to(library)
EOF
rm "$wheel"
chmod +x "$folder/lib/tritonserver" "$folder/backends/python/triton_python_backend_stub"
"$python" -m venv --without-pip "$folder/python"
"$python" -m pip --python "$folder/python/bin/python" install --quiet --no-compile --no-deps "numpy<2" $(pinned pillow) $(pinned tokenizers) \
	$(pinned onnxruntime) $(pinned flatbuffers) $(pinned packaging) $(pinned protobuf)
cat >"$folder/bin/tritonserver" <<-EOF
	#!/bin/sh
	# The python backend finds its packages through the python3 that comes first on the PATH.
	export PATH=$folder/python/bin:\$PATH LD_LIBRARY_PATH=$folder/lib\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}
	unset PYTHONPATH
	exec $folder/lib/tritonserver --backend-directory=$folder/backends "\$@"
EOF
chmod +x "$folder/bin/tritonserver"
