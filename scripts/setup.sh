#!/usr/bin/env bash
# Everything that labkit needs on a machine, once: system packages, a virtual environment with the exact
# versions of constraints.txt, the compiled eBPF programs, and a current kubectl where there is none.
# A second call finds its stamp and ends at once. After it nothing is downloaded.
#
#   scripts/setup.sh           what `make demo` and `make lab` need
#   scripts/setup.sh test      also what the tests need: Debian's chromium
set -o errexit -o nounset -o pipefail
cd "$(dirname "$0")/.."
what=${1:-run}
export PATH=$PATH:/usr/sbin:/sbin
say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# program=Debian package, for each program that the lab or its tests start
programs="ip=iproute2 tc=iproute2 iptables-restore=iptables ipset=ipset conntrack=conntrack nsenter=util-linux
  setpriv=util-linux busybox=busybox iperf3=iperf3 tcpdump=tcpdump curl=curl clang=clang llvm-strip=llvm bpftool=bpftool openssl=openssl"
[ "$what" = test ] && programs="$programs chromium=chromium git=git"
headers="/usr/include/bpf/bpf_helpers.h=libbpf-dev /usr/include/linux/bpf.h=linux-libc-dev"

missing_packages() {
  local pair
  for pair in $programs; do command -v "${pair%%=*}" >/dev/null || echo "${pair#*=}"; done
  for pair in $headers; do [ -e "${pair%%=*}" ] || echo "${pair#*=}"; done
  find_python >/dev/null || echo python3
  "$(find_python || echo false)" -c 'import venv, ensurepip' 2>/dev/null || echo python3-venv
}

find_python() {
  local p
  for p in /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do
    command -v "$p" >/dev/null && "$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v "$p"; return; }
  done
  return 1
}

install_packages() {
  local packages
  packages=$(missing_packages | sort -u | tr '\n' ' ')
  [ -n "${packages// /}" ] || return 0
  if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    cat >&2 <<M
setup: these are missing: $packages
  Debian, Ubuntu:  sudo apt-get install --no-install-recommends $packages
  Fedora:          sudo dnf install iproute iproute-tc iptables-nft ipset conntrack-tools util-linux busybox iperf3 tcpdump curl clang llvm bpftool libbpf-devel kernel-headers openssl python3 chromium
  Arch:            sudo pacman -S iproute2 iptables-nft ipset conntrack-tools util-linux busybox iperf3 tcpdump curl clang llvm bpf libbpf linux-api-headers openssl python chromium
Install them, then run this again.
M
    exit 1
  fi
  say "installing $packages"
  export DEBIAN_FRONTEND=noninteractive
  apt-get -q update >build/setup.log 2>&1 || die "apt-get update failed, see build/setup.log"
  # shellcheck disable=SC2086
  apt-get -q -y install --no-install-recommends $packages >>build/setup.log 2>&1 || die "apt-get install failed, see build/setup.log"
}

make_environment() {
  local python
  python=$(find_python) || die "Python 3.11 or later is needed"
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  say "installing Python packages into .venv"
  .venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]' >>build/setup.log 2>&1 \
    || die "pip install failed, see build/setup.log"
}

# kubectl before 1.30 speaks only SPDY for exec, which the lab's API does not.
current_kubectl() { "$1" version --client -o json 2>/dev/null | grep -Eq '"minor": "(3[0-9]|[4-9][0-9])'; }

install_kubectl() {
  current_kubectl .venv/bin/kubectl && return
  if current_kubectl kubectl; then ln -sf "$(command -v kubectl)" .venv/bin/kubectl; return; fi
  if [ -f /etc/apt/sources.list.d/debian.sources ] && [ "$(id -u)" = 0 ]; then
    say "unpacking a current kubectl from Debian's next release into .venv"
    local dir=build/kubectl
    rm -rf "$dir"; mkdir -p "$dir/lists/partial"
    # the machine's own mirror, one suite on, for this call alone: nothing of it is installed
    awk 'BEGIN{RS="";ORS="\n\n"} !/security/' /etc/apt/sources.list.d/debian.sources | sed -E 's/^Suites:.*/Suites: trixie/' >"$dir/next.sources"
    local apt=(-q -o "Dir::Etc::SourceList=$PWD/$dir/next.sources" -o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$PWD/$dir/lists"
               -o Dir::State::status=/dev/null -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root)
    if apt-get "${apt[@]}" update >>build/setup.log 2>&1 && (cd "$dir" && apt-get "${apt[@]}" download kubectl >>../setup.log 2>&1); then
      dpkg-deb -x "$dir"/kubectl_*.deb "$dir/root"
      cp "$dir/root/usr/bin/kubectl" .venv/bin/kubectl
    fi
    rm -rf "$dir"
  fi
  current_kubectl .venv/bin/kubectl || say "no kubectl 1.30 or later was found: the notebooks run, but their kubectl twins cannot be pasted. Install one from your distribution."
}

compile_programs() {
  if command -v clang >/dev/null; then
    .venv/bin/python -m labkit.local.dataplane.compile || die "the eBPF programs did not compile"
  else
    say "clang is missing: the eBPF data plane cannot be built, so notebooks 03 and later stop at their preflight. Install clang and libbpf-dev, then run this again."
  fi
}

stamp() { { echo "$what"; cat "$0" pyproject.toml constraints.txt; cat labkit/local/dataplane/bpf/*; } | sha256sum | cut -d' ' -f1; }

mkdir -p build
if [ "$(cat "build/.setup-$what" 2>/dev/null)" = "$(stamp)" ] && [ -x .venv/bin/labkit ] && [ -z "$(missing_packages)" ]; then exit 0; fi
install_packages
make_environment
install_kubectl
compile_programs
stamp >"build/.setup-$what"
say done
