#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
#
# Runs every check, after installing what is missing. The tests come last.
#
#   ./test.sh           check
#   ./test.sh --accept  take the element's properties as they are now for right, and check nothing else
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=.ci/install.sh
source .ci/install.sh

# The tests are built with the dev profile, which is optimized too and also checks assertions and overflows.
profile=debug
inspected=tests/neuralstyle.inspect.txt

step() {
    printf '\n==> %s\n' "$*"
}

# The tests of the kernels for graphics cards run on the processor.
install_software_vulkan() {
    compgen -G '/usr/share/vulkan/icd.d/*.json' >/dev/null && return
    if command -v apt-get >/dev/null; then
        echo "Installing a software driver for Vulkan, on which the kernels for graphics cards are tested" >&2
        debian_packages=(mesa-vulkan-drivers)
        install_debian_packages
    fi
}

check_dependencies() {
    if ! command -v cargo-deny >/dev/null; then
        cargo install --locked cargo-deny
    fi
    cargo deny --locked check --hide-inclusion-graph bans licenses sources
    # Advisories come from the network, and the rest should be checked without one too.
    if cargo deny fetch db; then
        cargo deny --locked check advisories
    else
        echo "SKIPPED: the advisory database cannot be fetched, so that advisories are not checked"
    fi
}

# Fails if a build with the features has a crate whose name begins so.
check_absent() {
    local names=$1 features=$2 edges=$3 crates
    crates=$(cargo tree --locked --no-default-features --features "$features" --edges "$edges" --prefix none)
    if grep -E "^($names)" <<<"$crates"; then
        echo "These crates are there with only the features '$features'" >&2
        return 1
    fi
}

# With graphics cards it is only linted; without, it is tested as well.
check_without_gstreamer() {
    check_absent 'gst-plugin-version-helper|gstreamer|glib|gobject|gio' gpu normal,build,dev
    cargo clippy --locked --no-default-features --features gpu --all-targets -- -D warnings
    cargo clippy --locked --no-default-features --all-targets -- -D warnings
    cargo test --locked --no-default-features
}

check_without_graphics_cards() {
    check_absent 'wgpu|minijinja|pollster|naga' plugin normal,build
    cargo clippy --locked --no-default-features --features plugin -- -D warnings
}

build_plugin() {
    cargo build --locked --features tools --lib --examples
}

# Prints what gst-inspect-1.0 says of the element's own properties. The rest is about the base classes, and differs from
# one version of GStreamer to the next.
inspect() {
    local scratch text
    scratch=$(mktemp --directory)
    text=$(GST_PLUGIN_PATH="$(target_directory)/$profile" GST_REGISTRY="$scratch/registry" \
        gst-inspect-1.0 --no-colors neuralstyle)
    rm -r "$scratch"
    awk '
        /^Element Properties:/ { inside = 1; next }
        /^[^ ]/ { inside = 0 }
        # A property starts at the second column, what is said of it is further in.
        /^  [a-z]/ { own = $1 !~ /^(name|parent|qos)$/ }
        inside && own && NF { $1 = $1; print }
    ' <<<"$text"
}

accept=false
case "$*" in
    "") ;;
    --accept) accept=true ;;
    *) sed -n '4,7s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac

install_missing
install_software_vulkan

if $accept; then
    build_plugin
    inspect >"$inspected"
    exit
fi

step "Format"
cargo fmt --all --check

step "Lints"
cargo clippy --locked --features tools --all-targets -- -D warnings

step "Lints with features"
cargo clippy --locked --all-targets --features tools,static,capi,doc -- -D warnings

step "Documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

step "Dependencies"
check_dependencies

step "The library without GStreamer"
check_without_gstreamer

step "The library without graphics cards"
check_without_graphics_cards

step "Properties of the element, against $inspected"
build_plugin
inspect | diff -u "$inspected" - || {
    echo "If the change is meant: ./test.sh --accept" >&2
    exit 1
}

step "Tests"
G_DEBUG=fatal-criticals cargo test --locked --features tools
