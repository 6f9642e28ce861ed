#!/bin/sh
# Build one Dockerfile with Debian's Buildah, which needs root, but neither a daemon nor a registry: instead of a BASE from a registry, the
# Dockerfile gets build/tools/base.tar, Debian 12 with Python 3.11. Images are kept in build/images, or in the folder IMAGE_STORE.
# Usage, after `make wheel tools`: scripts/build_image.sh DOCKERFILE NAME CONTEXT [OPTION OF buildah bud]...
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
state=${IMAGE_STORE:-$root/build/images}
dockerfile=$1 name=$2 context=$3
shift 3
mkdir -p "$state/home/.config/containers"
state=$(cd "$state" && pwd)

# The configuration of pip on this machine, in one file. It and the files that it names are available only during the build.
python3 -m pip config list | awk '
	BEGIN { print "[global]" }
	{ key = value = $0; sub(/=.*/, "", key); sub(/.*[.]/, "", key); sub(/^[^=]*=./, "", value); sub(/.$/, "", value) }
	!seen[key]++ { print key " = " value }' >"$state/pip.conf"
set -- --volume "$state/pip.conf:/etc/pip.conf:ro" "$@"
for place in $(sed -n 's/^[^=]*= //p' "$state/pip.conf"); do
	case $place in
	file:///*) path=$(dirname "${place#file://}") ;; # an index, whose links lead to its neighbours
	*) path=$place ;;
	esac
	case $path in
	/*) [ ! -e "$path" ] || set -- --volume "$path:$path:ro" "$@" ;;
	esac
done

export HOME="$state/home" PATH="$root/build/tools/bin:$PATH"
echo '{"default": [{"type": "insecureAcceptAnything"}]}' >"$HOME/.config/containers/policy.json"
buildah() {
	command buildah --storage-driver "$driver" --root "$state/storage" --runroot "$state/run" "$@"
}
# Use overlay layers, or copies if the files of this machine are on an overlay themselves.
driver=overlay
buildah info >/dev/null 2>&1 || driver=vfs

if ! buildah inspect --type image localhost/base >/dev/null 2>&1; then
	container=$(buildah from scratch)
	buildah add --quiet "$container" "$root/build/tools/base.tar" / >/dev/null
	buildah commit --quiet --rm "$container" localhost/base >/dev/null
fi
# Buildah 1.28 lacks this option of HEALTHCHECK, with which Docker notices sooner that a container is ready.
sed 's/ --start-interval=[0-9]*s//' "$dockerfile" >"$state/Dockerfile"
[ ! -e "$dockerfile.dockerignore" ] || set -- --ignorefile "$dockerfile.dockerignore" "$@"
buildah bud --isolation chroot --format docker --build-arg BASE=localhost/base --tag "localhost/$name" --file "$state/Dockerfile" "$@" "$context"
