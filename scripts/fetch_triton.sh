#!/bin/sh
# Fetch NVIDIA's tritonserver for the CPU, from the wheel nvidia-pytriton, with a Python environment for its python backend. It needs no root and installs nothing.
# FOLDER/bin/tritonserver then starts the server, whose python backend needs the system's libpython of the same version as python3.
# On a machine other than Linux on x86-64, nothing is fetched. Usage: scripts/fetch_triton.sh FOLDER
set -eu
folder=$1
rm -rf "$folder"
mkdir -p "$folder/bin" "$folder/wheel"
folder=$(cd "$folder" && pwd)
[ "$(uname -sm)" = "Linux x86_64" ] || exit 0

python3 -m venv "$folder/python"
python=$folder/python/bin/python
echo "nvidia-pytriton==0.7.0 --hash=sha256:21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df" >"$folder/requirements.txt"
"$python" -m pip download --quiet --no-deps --require-hashes --dest "$folder/wheel" --requirement "$folder/requirements.txt"
"$python" -m zipfile --extract "$folder"/wheel/nvidia_pytriton-*.whl "$folder/wheel"
rm "$folder"/wheel/*.whl
# Triton's python backend supports only NumPy 1; the other packages have the versions of the lock file, so that scores are the same.
"$python" deploy/service/constraints.py poetry.lock | grep -E '^(onnxruntime|pillow|safetensors|tokenizers)==' >"$folder/requirements.txt"
"$python" -m pip install --quiet --no-compile "numpy<2" -r "$folder/requirements.txt"

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
server=$folder/wheel/pytriton/tritonserver
mkdir "$folder/backends"
cp -r "$server/backends/python" "$folder/backends/python"
cp "$server/python_backend_stubs/$version/"* "$folder/backends/python/"
rm -r "$server/python_backend_stubs" "$server/backends"
chmod +x "$server/bin/tritonserver" "$folder/backends/python/triton_python_backend_stub"
cat >"$folder/bin/tritonserver" <<EOF
#!/bin/sh
# The python backend finds its packages through the python3 on PATH.
PATH=$folder/python/bin:\$PATH LD_LIBRARY_PATH=$folder/wheel/nvidia_pytriton.libs\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH} exec $server/bin/tritonserver --backend-directory=$folder/backends "\$@"
EOF
chmod +x "$folder/bin/tritonserver"
