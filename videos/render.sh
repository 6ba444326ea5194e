#!/usr/bin/env bash
# Render the animations.
#
#   bash videos/render.sh                     every film and preview
#   bash videos/render.sh microattention      one (or several)
#   bash videos/render.sh --preview-only      the GIFs, which are committed
#   bash videos/render.sh --full-only         the films, 1080p60, into videos/renders/
#
# The first run makes a virtual environment, .venv-videos/. videos/README.md names the system
# packages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

missing=()
for tool in ffmpeg gifsicle pkg-config; do
  command -v "$tool" >/dev/null || missing+=("$tool")
done
if command -v pkg-config >/dev/null; then
  for library in cairo pangocairo; do
    pkg-config --exists "$library" || missing+=("$library")
  done
fi
if ((${#missing[@]})); then
  echo "Missing: ${missing[*]}. videos/README.md says how to install what rendering needs." >&2
  exit 1
fi

venv=.venv-videos
stamp=$venv/installed
if ! cmp -s videos/requirements.txt "$stamp"; then
  echo "Making $venv/ ..."
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r videos/requirements.txt
  cp videos/requirements.txt "$stamp"
fi
exec "$venv/bin/python" videos/render.py "$@"
