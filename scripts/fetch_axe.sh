#!/bin/sh
# Fetch axe-core, which finds accessibility problems in pages, from the registry that npm is configured for. Only tests use it.
# Usage: scripts/fetch_axe.sh FOLDER
set -eu
version=4.14.1
digest=e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745
mkdir -p "$1"
cd "$1"
npm pack --silent "axe-core@$version" >/dev/null
echo "$digest  axe-core-$version.tgz" | sha256sum --check --quiet
tar -xzf "axe-core-$version.tgz" --strip-components=1 package/axe.min.js
touch axe.min.js
rm "axe-core-$version.tgz"
