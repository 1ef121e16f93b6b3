#!/usr/bin/env bash
# SPDX-License-Identifier: MPL-2.0
set -euo pipefail

print_help() {
    cat <<'EOF'
Paint a video or a picture in the manner of another picture.

Usage: ./stylize.sh [INPUT [OUTPUT]] [-- PROPERTY=VALUE ...]

  INPUT           video of any kind that GStreamer can decode, picture or animation [a short clip that comes along]
  OUTPUT          file to write: .mp4, .mkv or .webm, or for a picture .png or .jpg [stylized.mp4]
  PROPERTY=VALUE  settings of the element neuralstyle; a wrong one, such as -- help, lists all:
                    style=FILE          the picture to paint like, or the name of a built-in style
                    style-weight=NUMBER more paints harder
                    iterations=COUNT    more paints better, and takes longer
                    working-size=PIXELS less is faster, and gives broader strokes

The first run installs what is missing (with apt-get, on Debian and Ubuntu) and builds the program and the plugin.
EOF
}

for argument in "$@"; do
    case $argument in
        -h | --help) print_help && exit ;;
        --) break ;;
    esac
done

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=.ci/install.sh
source "$root/.ci/install.sh"
install_missing
# Cargo looks for its configuration in the current directory, but paths are relative to the caller's.
# The library is the plugin, where the README tells GStreamer to look for it.
(cd "$root" && cargo build --release --locked --features tools --lib --example stylize)
target=$(cd "$root" && target_directory)
exec "$target/release/examples/stylize" "$@"
