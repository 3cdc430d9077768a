#!/usr/bin/env bash
# Fills ROOT, where our programs and libtorch are mounted, with what they need of Debian and nothing else: the shared
# libraries that they load, certificates, a user. No shell, no package manager, no program. Packages are recorded as in
# distroless images (var/lib/dpkg/status.d), where scanners look, and listed in LIST: name, version, architecture,
# source, SHA-256 of the .deb.
#
#   deploy/image/rootfs.sh ROOT LIST
set -euo pipefail
root=$1 list=$2
die() { echo "rootfs: $*" >&2; exit 1; }

# The files that the loader finds for our programs and libraries; libcuda.so.1 comes with the driver of the machine.
needed() {
  local file lacking
  for file in "$root"/usr/local/bin/* "$root"/usr/local/lib/*.so*; do
    LD_LIBRARY_PATH=$root/usr/local/lib ldd "$file" 2>/dev/null || die "$file: ldd cannot read it"
  done >/tmp/ldd
  lacking=$(grep 'not found' /tmp/ldd | grep -v 'libcuda\.so\.1 ' | sort -u) || true
  [ -z "$lacking" ] || die "libraries that nobody has: $lacking"
  sed -nE 's/^\t(.* => )?(\/[^ ]+) \(0x.*/\2/p' /tmp/ldd | grep -v "^$root/" | sort -u
}

# dpkg knows a file by the path it was packed with, which may be from before /lib became a link.
owner_of() {
  local path
  for path in "$1" "/usr$1" "${1#/usr}"; do
    if dpkg -S "$path" 2>/dev/null | sed -nE '1s/(:amd64)?: .*//p' | grep .; then return; fi
  done
  die "$1 belongs to no package"
}

# Of a package or, where its documentation is another's, of one from the same source.
copyright_of() {
  local source=$1 package=$2 name
  for name in "$package" $(dpkg-query -W -f '${source:Package} ${Package}\n' | sed -n "s/^$source //p"); do
    if [ -s "/usr/share/doc/$name/copyright" ]; then
      cat "/usr/share/doc/$name/copyright"
      return
    fi
  done
  die "$package has no copyright file"
}

record() {
  local package=$1 version architecture source digest
  read -r version architecture source < <(dpkg-query -W -f '${Version} ${Architecture} ${source:Package}\n' "$package")
  digest=$(apt-cache show "$package=$version" | awk '/^SHA256: / && !found++ { print $2 }')
  [ -n "$digest" ] || die "$package $version is not in the archive, so nobody knows its digest"
  printf '%s\t%s\t%s\t%s\t%s\n' "$package" "$version" "$architecture" "$source" "$digest" >>"$list"
  mkdir -p "$root/var/lib/dpkg/status.d" "$root/usr/share/doc/$package"
  dpkg-query -s "$package" >"$root/var/lib/dpkg/status.d/$package"
  copyright_of "$source" "$package" >"$root/usr/share/doc/$package/copyright"
}

umask 022
mkdir -p "$root"/{etc/ssl/certs,usr/lib/x86_64-linux-gnu,usr/lib64,usr/share/common-licenses,proc,sys,dev,tmp,run}
chmod 1777 "$root/tmp"
ln -s usr/lib "$root/lib"
ln -s usr/lib64 "$root/lib64"

packages=(base-files ca-certificates)
while read -r path; do
  packages+=("$(owner_of "$path")")
  # The name that the loader asks for, and the file behind it.
  cp -a --parents "$path" "$root"
  cp -a --parents "$(realpath "$path")" "$root"
done < <(needed)
: >"$list"
printf '%s\n' "${packages[@]}" | sort -u | while read -r package; do record "$package"; done

# What copyright files refer to.
cp -a /usr/share/common-licenses/. "$root/usr/share/common-licenses"
cp -a /usr/lib/os-release "$root/usr/lib"
ln -s ../usr/lib/os-release "$root/etc/os-release"
# Mozilla's authorities as Debian ships them, whatever this machine trusts beside them.
find /usr/share/ca-certificates/mozilla -name '*.crt' | LC_ALL=C sort | while read -r file; do cat "$file"; done \
  >"$root/etc/ssl/certs/ca-certificates.crt"
echo 'root:x:0:0:root:/:/nonexistent
pcqa:x:65532:65532:pcqa:/nonexistent:/nonexistent' >"$root/etc/passwd"
echo 'root:x:0:
pcqa:x:65532:' >"$root/etc/group"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
# The loader's cache: libraries in /usr/local/lib are found by each other too.
echo '/usr/local/lib' >"$root/etc/ld.so.conf"
ldconfig -X -r "$root"
rm -rf "$root/var/cache"
