#!/bin/sh
# Fetch Debian's Buildah, Chromium, curl, kubectl, nginx, Prometheus, Redis and ShellCheck into a folder, with the libraries that this machine lacks. It needs no root and installs nothing.
# Their programs are then in FOLDER/bin, and FOLDER/base.tar is a root file system with Debian's Python for
# scripts/build_image.sh. Usage: scripts/fetch_tools.sh FOLDER
set -eu
folder=$1
rm -rf "$folder"
mkdir -p "$folder/packages/lists/partial" "$folder/packages/cache/archives/partial" "$folder/bin"
folder=$(cd "$folder" && pwd)

apt() {
	apt-get -qq -o "Dir::State::lists=$folder/packages/lists" -o "Dir::Cache=$folder/packages/cache" "$@"
}

# Print the packages that are not installed yet: "Inst name (version ...". With "[version]" after the name, a package
# would only be upgraded.
missing() {
	apt -s --no-install-recommends "$@" | sed -n 's/^Inst \([^ ]*\) (.*/\1/p'
}

apt update
packages=$(missing install buildah chromium curl fonts-liberation kubernetes-client nginx patchelf prometheus redis-server shellcheck)
cd "$folder/packages"
# Programs that are already installed on this machine are not in $packages, and are run from where they are.
[ -z "$packages" ] || apt download $packages
for package in *.deb; do
	[ ! -e "$package" ] || dpkg -x "$package" "$folder"
done

# The base file system gets the packages that a machine without any would need: Python and all its dependencies, down to the
# C library. As in slim images, there are no manuals or translations; pip is included, and may install packages system-wide.
mkdir base "$folder/base" && cd base
: >status
apt download $(missing -o "Dir::State::status=$PWD/status" install base-files base-passwd bash ca-certificates coreutils dash findutils grep gzip libc-bin libstdc++6 passwd python3 python3-pip-whl sed tar usr-is-merged)
base=$folder/base
mkdir -p "$base/usr/bin" "$base/usr/sbin" "$base/usr/lib" "$base/usr/lib64"
ln -s usr/bin usr/sbin usr/lib usr/lib64 "$base"
for package in *.deb; do
	dpkg --fsys-tarfile "$package" | tar --extract --keep-directory-symlink --directory "$base"
done
cp "$base/usr/share/base-passwd/passwd.master" "$base/etc/passwd"
cp "$base/usr/share/base-passwd/group.master" "$base/etc/group"
python3 -m zipfile --extract "$base"/usr/share/python-wheels/pip-*.whl "$base/usr/lib/python3/dist-packages"
rm -r "$base/usr/share/doc" "$base/usr/share/locale" "$base/usr/share/man" "$base/usr/share/python-wheels" "$base"/usr/lib/python3.*/EXTERNALLY-MANAGED
tar --create --file "$folder/base.tar" --directory "$base" --owner 0 --group 0 --sort name .
cd "$folder"
rm -r packages base

libraries=$folder/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || gcc -print-multiarch)
for program in usr/bin/buildah usr/lib/chromium/chromium usr/sbin/nginx usr/bin/curl usr/bin/kubectl usr/bin/prometheus usr/bin/promtool usr/bin/redis-server usr/bin/shellcheck; do
	[ -x "$program" ] || continue
	# PulseAudio's library looks for one of its parts in the place where it would be installed.
	cat >"bin/${program##*/}" <<-END
		#!/bin/sh
		LD_LIBRARY_PATH=$libraries:$libraries/pulseaudio\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH} exec $folder/$program "\$@"
	END
	chmod +x "bin/${program##*/}"
done
# Buildah restarts itself without the environment variables that it was started with.
[ ! -x usr/bin/buildah ] || PATH=$folder/usr/bin:$PATH patchelf --set-rpath "$libraries" usr/bin/buildah
