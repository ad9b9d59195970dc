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
purposes=lab; [ "$what" = test ] && purposes="lab test"
export PATH=$PATH:/usr/sbin:/sbin
say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# What labkit/machine.tsv names and this machine lacks, for the purposes given, as packages of one column:
# 2 Debian, 3 Fedora, 4 Arch.
missing_packages() {
  local column=$1 need debian fedora arch purpose; shift
  while IFS=$'\t' read -r need debian fedora arch purpose; do
    case " $* " in *" $purpose "*) ;; *) continue ;; esac
    case $need in /*) [ -e "$need" ] ;; *) command -v "$need" >/dev/null ;; esac && continue
    local packages=(- - "$debian" "$fedora" "$arch")
    echo "${packages[$column]}"
  done < <(grep -v '^#' labkit/machine.tsv)
  local python; python=$(find_python) || python=false
  "$python" -c 'import venv, ensurepip' 2>/dev/null || { [ "$column" = 2 ] && echo python3-venv || echo python; }
}

find_python() {
  local p
  for p in /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do
    command -v "$p" >/dev/null && "$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v "$p"; return; }
  done
  return 1
}

install_packages() {
  if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    local packages
    packages=$(missing_packages 2 $purposes ebpf | sort -u | tr '\n' ' ')
    [ -n "${packages// /}" ] || return 0
    say "installing $packages"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -q update >build/setup.log 2>&1 || die "apt-get update failed, see build/setup.log"
    # shellcheck disable=SC2086
    apt-get -q -y install --no-install-recommends $packages >>build/setup.log 2>&1 || die "apt-get install failed, see build/setup.log"
  elif [ -n "$(missing_packages 2 $purposes)" ]; then
    say "programs are missing. Install them, then run this again:" >&2
    name_packages $purposes >&2
    exit 1
  fi
}

name_packages() {
  local line
  for line in "2 Debian, Ubuntu: sudo apt-get install --no-install-recommends" "3 Fedora: sudo dnf install" "4 Arch: sudo pacman -S"; do
    echo "  ${line#* } $(missing_packages "${line%% *}" "$@" | sort -u | tr '\n' ' ')"
  done
}

make_environment() {
  local python
  python=$(find_python) || die "Python 3.11 or later is needed"
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  say "installing Python packages into .venv"
  .venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]' >>build/setup.log 2>&1 \
    || die "pip install failed, see build/setup.log"
  # Programs in containers see a read-only disk: none of them could keep what it compiled of labkit at its start.
  .venv/bin/python -m compileall -q labkit
  # JupyterLab's news and update checks are downloads
  .venv/bin/jupyter labextension disable --level=sys_prefix @jupyterlab/apputils-extension:announcements >>build/setup.log 2>&1
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
  if [ -z "$(missing_packages 2 ebpf)" ]; then
    .venv/bin/python -m labkit.local.dataplane.compile || die "the eBPF programs did not compile"
  else
    say "the eBPF data plane cannot be built without these, so notebooks 03 and later stop at their preflight. To mend it, install them and run this again:"
    name_packages ebpf
  fi
}

stamp() { { cat "$0" pyproject.toml constraints.txt; cat labkit/machine.tsv labkit/local/dataplane/bpf/*; } | sha256sum | cut -d' ' -f1; }

current() { [ "$(cat "build/.setup-$1" 2>/dev/null)" = "$(stamp)" ]; }

mkdir -p build
# what the tests need includes what a run needs
if { current "$what" || current test; } && [ -x .venv/bin/labkit ] && [ -z "$(missing_packages 2 $purposes ebpf)" ]; then exit 0; fi
install_packages
make_environment
install_kubectl
compile_programs
stamp >"build/.setup-$what"
say done
