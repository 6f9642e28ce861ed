#!/bin/sh
# Fetch Debian's Chromium, curl, kubectl, nginx, Prometheus, Redis and ShellCheck into a folder, with the libraries that this machine lacks. It needs no root and installs nothing.
# Their programs are then in FOLDER/bin. Usage: scripts/fetch_tools.sh FOLDER
set -eu
folder=$1
rm -rf "$folder"
mkdir -p "$folder/packages/lists/partial" "$folder/packages/cache/archives/partial" "$folder/bin"
folder=$(cd "$folder" && pwd)

apt() {
	apt-get -qq -o "Dir::State::lists=$folder/packages/lists" -o "Dir::Cache=$folder/packages/cache" "$@"
}

apt update
# "Inst name (version ...": a package that is not here yet; with "[version]" after the name it would only be upgraded.
missing=$(apt -s --no-install-recommends install chromium curl fonts-liberation kubernetes-client nginx prometheus redis-server shellcheck | sed -n 's/^Inst \([^ ]*\) (.*/\1/p')
cd "$folder/packages"
# What is installed here already is missing from that list, and is run from where it is.
[ -z "$missing" ] || apt download $missing
for package in *.deb; do
	[ ! -e "$package" ] || dpkg -x "$package" "$folder"
done
cd "$folder"
rm -r packages

libraries=$folder/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || gcc -print-multiarch)
for program in usr/lib/chromium/chromium usr/sbin/nginx usr/bin/curl usr/bin/kubectl usr/bin/prometheus usr/bin/promtool usr/bin/redis-server usr/bin/shellcheck; do
	[ -x "$program" ] || continue
	cat >"bin/${program##*/}" <<-EOF
		#!/bin/sh
		LD_LIBRARY_PATH=$libraries\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH} exec $folder/$program "\$@"
	EOF
	chmod +x "bin/${program##*/}"
done
