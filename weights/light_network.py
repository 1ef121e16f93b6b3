#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0
"""Make a light network: VGG16 with fewer channels, which stands in for the whole one in style transfer.

  light_network.py train PICTURES OUT.safetensors   train on a folder of pictures, minutes on a GPU, hours on a CPU
  light_network.py judge LIGHT CONTENT STYLE        how far steps along its gradient lower the loss of VGG16
  light_network.py reference LIGHT                  its losses and gradients on a small image, to check programs by

Needs: torch numpy opencv-python-headless safetensors. training_pictures.py prepares the pictures; any others do, named
photo-*.jpg and art-*.jpg.

The light network f and one matrix E per layer are trained together so that E f(x) is F(x), the feature maps of the
whole network. Its losses are those of E f. They need no E: with the metric M = E'E, the style loss for a difference D
of Gram matrices is |E D E'|^2 = <M D, D M>, and the content loss for a difference d of feature maps is
|E d|^2 = <M d, d>. The file holds the convolutions of f, named as in vgg16-features.safetensors, and the metrics.

Training takes three steps:
1. Begin: in each layer, keep the channels of the whole network that span its feature maps best (greedy pivoting), and
   fit their weights by least squares to the values there.
2. Train all layers and the matrices E of the default layers together, on crops of pictures and on images in the middle
   of style transfer. Three errors are lowered: that of E f(x), that of its Gram matrices, and that of the gradient of
   the loss for the image, which is what a step of the optimization follows.
3. Fit the matrices E of the other layers by least squares.
"""
import argparse
import json
import math
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from glob import glob

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file, save_file

WHOLE_FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "vgg16-features.safetensors")
LAYERS = ("1_1", "1_2", "2_1", "2_2", "3_1", "3_2", "3_3", "4_1", "4_2", "4_3")
FIRST_OF_BLOCK = ("2_1", "3_1", "4_1")
STYLE_LAYERS = ("1_2", "2_2", "3_3", "4_3")
CONTENT_LAYER = "3_3"
MEAN_BGR = (103.939, 116.779, 123.68)
CONTENT_WEIGHT, STYLE_WEIGHT, TV_WEIGHT = 1.0, 10.0, 3.0

# Half of VGG16's channels, so a quarter of its products.
CHANNELS = (32, 32, 64, 64, 128, 128, 128, 256, 256, 256)
# How far weights move in each of the first steps, as a share of their mean size, and how much each error counts.
LEARNING_RATE = 0.008
# The network that is kept is an average, in which about the last twentieth of all steps counts.
AVERAGED = 20
ERROR_WEIGHTS = {"features": 1.0, "gram": 1.0, "gradient": 0.3}


# ---- The networks and their losses


class Convolution(torch.autograd.Function):
    """3x3 convolution whose gradients are convolutions of this kind again. With PyTorch's own, whose gradient of a
    gradient is slow, a training step takes 1.7 times as long. Gradients that are to be differentiated again are those
    for images: the ones for weights are left out of them."""

    @staticmethod
    def forward(context, inputs, weight):
        context.save_for_backward(inputs, weight)
        return F.conv2d(inputs, weight, padding=1)

    @staticmethod
    def backward(context, gradient):
        inputs, weight = context.saved_tensors
        of_inputs = of_weight = None
        if context.needs_input_grad[0]:
            of_inputs = Convolution.apply(gradient, weight.flip(2, 3).transpose(0, 1))
        if context.needs_input_grad[1] and not torch.is_grad_enabled():
            of_weight = torch.nn.grad.conv2d_weight(inputs, weight.shape, gradient, padding=1)
        return of_inputs, of_weight


def products(first, second):
    """A'B for each image, A and B being [images, positions, channels]. Of few channels and many positions, only some of
    a GPU's processors would be at work: they are taken in parts."""
    count = math.gcd(first.shape[1], max(1, 1024 // first.shape[2]))
    first, second = first.unflatten(1, (count, -1)), second.unflatten(1, (count, -1))
    return (first.transpose(2, 3) @ second).sum(1)


class GramMatrix(torch.autograd.Function):
    """F'F for each image, F being [images, positions, channels]."""

    @staticmethod
    def forward(context, rows):
        context.save_for_backward(rows)
        return products(rows, rows)

    @staticmethod
    def backward(context, gradient):
        [rows] = context.saved_tensors
        return Mixed.apply(rows, gradient + gradient.transpose(1, 2))


class Mixed(torch.autograd.Function):
    """F S for each image, F being [images, positions, channels]."""

    @staticmethod
    def forward(context, rows, matrix):
        context.save_for_backward(rows, matrix)
        return rows @ matrix

    @staticmethod
    def backward(context, gradient):
        rows, matrix = context.saved_tensors
        return gradient @ matrix.transpose(1, 2), products(rows, gradient)


class MissedEnergy(torch.autograd.Function):
    """|f E' - F|^2, f and F being [images, positions, channels]."""

    @staticmethod
    def forward(context, rows, matrix, target):
        missed = (rows @ matrix.T).sub_(target)
        context.save_for_backward(rows, matrix, missed)
        return torch.linalg.vector_norm(missed).square()

    @staticmethod
    def backward(context, gradient):
        rows, matrix, missed = context.saved_tensors
        return missed @ (2 * gradient * matrix), 2 * gradient * products(missed, rows).sum(0), None


class Network:
    """Convolutions like VGG16's, with any number of channels. The matrices E, `maps`, make it a stand-in for VGG16."""

    def __init__(self, weights, maps=None, metrics=None):
        self.weights, self.maps, self.metrics = weights, maps, metrics
        self.dtype, device = weights["conv1_1.weight"].dtype, weights["conv1_1.weight"].device
        self.mean = torch.tensor(MEAN_BGR, device=device).view(1, 3, 1, 1)

    @classmethod
    def load(cls, path, device):
        """A file of the whole network or of a light one."""
        arrays = {name: array.astype(np.float32) for name, array in load_file(path).items()}
        tensors = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
        weights = {name: tensor for name, tensor in tensors.items() if name.startswith("conv")}
        metrics = {name[4:7]: tensor for name, tensor in tensors.items() if name.endswith(".metric")}
        return cls(for_convolution(weights), metrics=metrics or None)

    def cast(self, dtype):
        """The same network, with weights and feature maps of another type."""
        return Network({name: tensor.to(dtype) for name, tensor in self.weights.items()})

    def tensors(self):
        return [*self.weights.values(), *self.maps.values()]

    def sums(self, inputs, layer):
        bias = self.weights[f"conv{layer}.bias"].view(1, -1, 1, 1)
        return Convolution.apply(inputs, self.weights[f"conv{layer}.weight"]) + bias

    def __call__(self, image, last=LAYERS[-1]):
        """Feature maps of all layers up to `last`, after ReLU. `image`: BGR, 0 to 255, [images, 3, height, width]."""
        features, maps = {}, (image - self.mean).to(self.dtype, memory_format=torch.channels_last)
        for layer in LAYERS[: LAYERS.index(last) + 1]:
            if layer in FIRST_OF_BLOCK:
                maps = F.max_pool2d(maps, 2)
            maps = features[layer] = F.relu(self.sums(maps, layer))
        return features

    def metric(self, layer):
        """M = E'E, or None for the whole network."""
        if self.maps is not None:
            return self.maps[layer].T @ self.maps[layer]
        return self.metrics[layer] if self.metrics is not None else None

    def gram_energy(self, layer, gram):
        """|E gram E'|^2 for each image."""
        metric = self.metric(layer)
        if metric is None:
            return (gram * gram).sum((1, 2))
        product = metric @ gram
        return (product * product.transpose(1, 2)).sum((1, 2))

    def feature_energy(self, layer, features):
        """|E features|^2 for each image."""
        metric, rows = self.metric(layer), by_position(features.float())
        return rows.square().sum((1, 2)) if metric is None else (metric * GramMatrix.apply(rows)).sum((1, 2))


class Objective:
    """The loss of images, each with its own content and style picture, by the feature maps of one network."""

    def __init__(self, network, style_grams, content):
        """`style_grams`: those of the style pictures. `content`: the feature maps of the content pictures."""
        self.network, self.grams, self.content = network, style_grams, content
        self.gram_norms = {layer: network.gram_energy(layer, target) for layer, target in style_grams.items()}
        self.content_norm = network.feature_energy(CONTENT_LAYER, content)

    @classmethod
    def of_pictures(cls, network, content, style):
        return cls(network, grams(network(style)), network(content, CONTENT_LAYER)[CONTENT_LAYER])

    def tensors(self):
        return [*self.grams.values(), *self.gram_norms.values(), self.content, self.content_norm]

    def content_loss(self, features):
        return self.network.feature_energy(CONTENT_LAYER, features[CONTENT_LAYER] - self.content) / self.content_norm

    def style_loss(self, image_grams):
        losses = [self.network.gram_energy(layer, image_grams[layer] - target) / self.gram_norms[layer]
                  for layer, target in self.grams.items()]
        return sum(losses) / len(losses)

    def loss(self, features, image_grams):
        """One value for each image."""
        return CONTENT_WEIGHT * self.content_loss(features) + STYLE_WEIGHT * self.style_loss(image_grams)


def by_position(features):
    """[images, channels, height, width] as [images, positions, channels], which is how they lie in memory."""
    return features.permute(0, 2, 3, 1).flatten(1, 2)


def grams(features):
    """F F' / positions for each image, in the style layers. Every loss is a ratio, so it does not matter by what else
    it is divided."""
    rows_of = {layer: by_position(features[layer].float()) for layer in STYLE_LAYERS}
    return {layer: GramMatrix.apply(rows) / rows.shape[1] for layer, rows in rows_of.items()}


@torch.enable_grad()
def total_variation_gradient(image):
    """The gradient of the library's total variation, src/objective/total_variation.rs."""
    image = image.detach().requires_grad_(True)
    right = F.pad(image, (0, 1, 0, 0), mode="replicate").diff(dim=3)
    below = F.pad(image, (0, 0, 0, 1), mode="replicate").diff(dim=2)
    loss = (right ** 2 + below ** 2 + 16).sqrt().mean((1, 2, 3)).sum() / 255
    return torch.autograd.grad(loss, image)[0]


def for_convolution(weights):
    """Weights in the layout in which convolutions are fastest."""
    return {name: tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
            for name, tensor in weights.items()}


# ---- Pictures


class Pictures:
    """Square crops of pictures on the device, from which batches are made there."""

    CROP = 256
    CROPS_PER_PICTURE = 10

    def __init__(self, paths, size, device, seed):
        """`size` is the side of the images in a batch."""
        self.size, self.device = size, device
        self.random = torch.Generator(device).manual_seed(seed)
        with ThreadPoolExecutor() as threads:
            crops = list(threads.map(self.cut, paths, range(seed, seed + len(paths))))
        self.crops = torch.from_numpy(np.concatenate(crops)).to(device)
        is_art = [os.path.basename(path).startswith("art") for path in paths]
        is_art = torch.tensor(is_art, device=device).repeat_interleave(self.CROPS_PER_PICTURE)
        self.photos, self.art = (~is_art).nonzero()[:, 0], is_art.nonzero()[:, 0]

    def cut(self, path, seed):
        """Square crops of one picture, of its short side down to half of it: [crops, 3, CROP, CROP], uint8."""
        picture, random = cv2.imread(path), np.random.default_rng(seed)
        (height, width), crops = picture.shape[:2], []
        for _ in range(self.CROPS_PER_PICTURE):
            side = int(min(height, width) * random.uniform(0.5, 1))
            y, x = random.integers(height - side + 1), random.integers(width - side + 1)
            crop = picture[y:y + side, x:x + side]
            method = cv2.INTER_AREA if side > self.CROP else cv2.INTER_CUBIC
            crops.append(cv2.resize(crop, (self.CROP, self.CROP), interpolation=method).transpose(2, 0, 1))
        return np.stack(crops)

    def uniform(self, count, low, high):
        """One random value for each of so many images."""
        return torch.empty(count, 1, 1, 1, device=self.device).uniform_(low, high, generator=self.random)

    def chance(self, count, probability):
        """For each of so many images, whether something happens to it."""
        return self.uniform(count, 0, 1) < probability

    def batch(self, count, art_share):
        """So many images, this share of them art: parts of crops at random scales, some mirrored."""
        photos, art = (part[torch.randint(len(part), (count,), device=self.device, generator=self.random)]
                       for part in (self.photos, self.art))
        chosen = torch.where(self.chance(count, art_share)[:, 0, 0, 0], art, photos)
        scale = self.uniform(count, 0.6, 1)[:, 0, 0, 0]
        mirror = 1 - 2 * self.chance(count, 0.5)[:, 0, 0, 0].float()
        view = torch.zeros(count, 2, 3, device=self.device)
        view[:, 0, 0], view[:, 1, 1] = scale * mirror, scale
        view[:, :, 2] = (1 - scale)[:, None] * self.uniform(2 * count, -1, 1).view(count, 2)
        grid = F.affine_grid(view, (count, 3, self.size, self.size), align_corners=False)
        images = F.grid_sample(self.crops[chosen].float(), grid, padding_mode="border", align_corners=False)
        # Some in other colours.
        order = torch.rand(count, 3, device=self.device, generator=self.random).argsort(1)[:, :, None, None]
        return torch.where(self.chance(count, 0.3), images.gather(1, order.expand_as(images)), images)

    def varied(self, count):
        """Images of all kinds: some of other contrast, some mixed with others, some noisy."""
        images = self.batch(count, 0.5)
        contrast = self.uniform(count, 0.3, 1.5) * (images - 128) + 128 + self.uniform(count, -50, 50)
        images = torch.where(self.chance(count, 0.3), contrast, images)
        mixed = torch.lerp(images, images.roll(1, 0), self.uniform(count, 0.1, 0.5))
        images = torch.where(self.chance(count, 0.3), mixed, images)
        noise = torch.randn(images.shape, device=self.device, generator=self.random) * self.uniform(count, 1, 14)
        return torch.where(self.chance(count, 0.4), images + noise, images).clamp(0, 255)


# ---- Begin: channels by pivoting, weights by least squares


def solve(products, targets, ridge):
    """The matrix W that brings W inputs closest to outputs: products is inputs inputs', targets is inputs outputs'."""
    products = products + ridge * products.diagonal().mean() * torch.eye(len(products), device=products.device)
    return torch.linalg.solve(products, targets).T.float().contiguous()


def rows(features):
    """[images, channels, height, width] as [channels, positions]."""
    return features.transpose(0, 1).flatten(1)


def spanning_channels(features, count):
    """The channels that, taken one by one, leave the least energy outside of what they span."""
    left, kept = features.double(), []
    for _ in range(count):
        energy = (left * left).sum(1)
        energy[kept] = -1
        kept.append(int(energy.argmax()))
        direction = left[kept[-1]] / left[kept[-1]].norm().clamp_min(1e-9)
        left = left - (left @ direction)[:, None] * direction
    return kept


@torch.no_grad()
def begin(whole, images):
    """A light network whose layers come as near to the whole one's as they can, one after the other."""
    weights, light = {}, None
    features = whole(images)
    maps = images - whole.mean
    inputs_of_whole = dict(zip(LAYERS, [maps, *features.values()]))
    for layer, channels in zip(LAYERS, CHANNELS):
        inputs = inputs_of_whole[layer]
        if layer in FIRST_OF_BLOCK:
            maps, inputs = F.max_pool2d(maps, 2), F.max_pool2d(inputs, 2)
        some = torch.randperm(inputs[:, 0].numel(), device=images.device)[:40_000]
        kept = spanning_channels(rows(features[layer])[:, some], channels)
        taps = rows(F.unfold(maps, 3, padding=1))[:, some]
        taps = torch.cat([taps, torch.ones_like(taps[:1])]).double()
        sums = rows(whole.sums(inputs, layer))[kept][:, some].double()
        fitted = solve(taps @ taps.T, taps @ sums.T, 1e-4)
        weights[f"conv{layer}.weight"] = fitted[:, :-1].reshape(channels, maps.shape[1], 3, 3).contiguous()
        weights[f"conv{layer}.bias"] = fitted[:, -1].contiguous()
        light = Network(for_convolution(weights))
        maps = F.relu(light.sums(maps, layer))
    return light


@torch.no_grad()
def fit_maps(light, whole, batches, layers):
    """The matrices E of these layers that bring E f(x) closest to F(x)."""
    sums = {layer: (0, 0) for layer in layers}
    for images in batches:
        in_light, in_whole = light(images), whole(images)
        for layer, (products, targets) in sums.items():
            inputs, outputs = rows(in_light[layer]).double(), rows(in_whole[layer]).double()
            sums[layer] = products + inputs @ inputs.T, targets + inputs @ outputs.T
    return {layer: solve(products, targets, 1e-6) for layer, (products, targets) in sums.items()}


# ---- Train


class Optimizations:
    """Images on their way from a content picture to paint, each driven by the whole network or by the light one.

    They are what the light network will see in use, near the end of an optimization above all, and its own mistakes are
    among them.
    """

    DECAYS = (0.8, 0.99)
    LONGEST_LIFE = 150

    def __init__(self, pictures, whole, count, seed):
        self.pictures, self.whole = pictures, whole
        self.random = np.random.default_rng(seed)
        self.content, self.style = pictures.batch(count, 0.2), pictures.batch(count, 0.7)
        self.image = self.content.clone()
        self.first, self.second = torch.zeros_like(self.image), torch.zeros_like(self.image)
        self.age, self.left = torch.zeros(count, 1, 1, 1, device=pictures.device), self.lives(count)
        self.by_light = torch.arange(count, device=pictures.device).view(-1, 1, 1, 1) % 2 == 0
        self.rate = pictures.uniform(count, math.log(2), math.log(12)).exp()
        with torch.no_grad():
            self.objective = Objective.of_pictures(whole, self.content, self.style)

    def lives(self, count):
        """After how many steps each of so many images ends."""
        return self.random.integers(0, self.LONGEST_LIFE, (2, count)).max(0) + 1

    def tensors(self):
        """All that a step changes."""
        return [self.image, self.first, self.second, self.age]

    @torch.no_grad()
    def step_sizes(self, gradient):
        """About how far Adam's next step takes a pixel for a unit of its gradient, up to a factor for each image."""
        second = self.second / (1 - self.DECAYS[1] ** self.age).clamp_min(1e-9)
        return (second + gradient.square().mean((1, 2, 3), keepdim=True)).rsqrt()

    @torch.no_grad()
    def step(self, by_whole, by_light):
        """One step of Adam for each image."""
        gradient = torch.where(self.by_light, by_light, by_whole).nan_to_num(0, 0, 0)
        gradient = gradient + TV_WEIGHT * total_variation_gradient(self.image)
        self.age += 1
        b1, b2 = self.DECAYS
        self.first.lerp_(gradient, 1 - b1)
        self.second.lerp_(gradient * gradient, 1 - b2)
        direction = self.first / (1 - b1 ** self.age) / ((self.second / (1 - b2 ** self.age)).sqrt() + 1e-12)
        self.image.sub_(self.rate * direction).clamp_(0, 255)

    def renew_ended(self):
        """Counts a step. Images at the end of their life begin another."""
        self.left -= 1
        for number in np.flatnonzero(self.left <= 0):
            self.renew(number)

    @torch.no_grad()
    def renew(self, number):
        """New pictures. Half of the images begin as plain content; the others carry their paint over to the new one, as
        it happens in film where something new comes into view."""
        one, pictures = slice(number, number + 1), self.pictures
        paint = self.image[one] - self.content[one]
        carried = pictures.chance(1, 0.5)
        self.content[one] = pictures.batch(1, 0.2)
        self.style[one] = torch.where(carried, self.style[one], pictures.batch(1, 0.7))
        self.image[one] = (self.content[one] + paint * carried).clamp(0, 255)
        for tensor in (self.first, self.second, self.age):
            tensor[one] = 0
        self.rate[one] = pictures.uniform(1, math.log(2), math.log(12)).exp()
        self.left[one] = self.lives(1)
        objective = Objective.of_pictures(self.whole, self.content[one], self.style[one])
        for own, new in zip(self.objective.tensors(), objective.tensors()):
            own[one] = new


def detached(tensors):
    return {name: tensor.detach() for name, tensor in tensors.items()}


def feature_errors(matrix, features, gram, target, gram_target):
    """The share of the whole network's feature maps that E f misses, and the same of their Gram matrices."""
    missed = MissedEnergy.apply(by_position(features), matrix, by_position(target))
    energy = gram_target.diagonal(dim1=1, dim2=2).sum() * target[0, 0].numel()
    gram_missed = (matrix @ gram @ matrix.T - gram_target).square().sum((1, 2)) / gram_target.square().sum((1, 2))
    return missed / energy, gram_missed.mean()


def gradient_error(by_light, by_whole):
    """1 - cosine of two gradients, for each image."""
    return 1 - F.cosine_similarity(by_light.flatten(1), by_whole.flatten(1))


def training_errors(light, whole, images, state):
    """What is to be lowered, by name, on images and on those under optimization, which are taken a step further."""
    with torch.no_grad():
        targets = whole(images)
        target_grams = grams(targets)
    image = state.image.clone().requires_grad_(True)
    state_targets = whole(image)
    state_target_grams = grams(state_targets)
    [by_whole] = torch.autograd.grad(state.objective.loss(state_targets, state_target_grams).sum(), image)
    state_targets, state_target_grams = detached(state_targets), detached(state_target_grams)

    features, state_features = light(images), light(image)
    image_grams, state_grams = grams(features), grams(state_features)
    losses = Objective.of_pictures(light, state.content, state.style).loss(state_features, state_grams)
    [by_light] = torch.autograd.grad(losses.sum(), image, create_graph=True)

    sizes = state.step_sizes(by_whole)
    errors = {"gradient": gradient_error(by_light * sizes, by_whole * sizes).mean()}
    for layer in STYLE_LAYERS:
        of_images = feature_errors(light.maps[layer], features[layer], image_grams[layer],
                                   targets[layer], target_grams[layer])
        of_states = feature_errors(light.maps[layer], state_features[layer], state_grams[layer],
                                   state_targets[layer], state_target_grams[layer])
        errors[f"features {layer}"], errors[f"gram {layer}"] = ((a + b) / 2 for a, b in zip(of_images, of_states))
    state.step(by_whole, by_light.detach())
    return errors


def training_step(light, average, share, whole, images, state, optimizer):
    """Lowers the errors a little and returns them. `share` is that of the new weights in the average. All that differs
    between two steps is in tensors that are changed in place, and none is read back: a CUDA graph can repeat a step."""
    errors = training_errors(light, whole, images, state)
    loss = sum(ERROR_WEIGHTS[name.split()[0]] * error for name, error in errors.items())
    for tensor, gradient in zip(light.tensors(), torch.autograd.grad(loss, light.tensors())):
        torch.nan_to_num(gradient, 0, 0, 0, out=tensor.grad)  # One bad image must not cost the run.
    optimizer.step()
    with torch.no_grad():
        for mean, tensor in zip(average.tensors(), light.tensors()):
            mean.lerp_(tensor, share)
    return detached(errors)


class NoGraphs(Exception):
    """Steps could not be captured as CUDA graphs."""


def captured(steps, changed):
    """The same steps as CUDA graphs, which need no time for Python and launches. `changed`: the tensors that steps
    change. It is an error if graphs change them in another way than the steps do."""
    pool, graphs, errors = torch.cuda.graph_pool_handle(), [], []
    for step in steps:
        graphs.append(torch.cuda.CUDAGraph())
        with torch.cuda.graph(graphs[-1], pool=pool, stream=torch.cuda.current_stream()):
            errors.append(step())

    def replay(number):
        graphs[number].replay()
        return errors[number]

    def changes(step):
        """What a step changes, and undoes that."""
        before = [tensor.detach().clone() for tensor in changed]
        step()
        after = [tensor.detach() - old for tensor, old in zip(changed, before)]
        with torch.no_grad():
            for tensor, old in zip(changed, before):
                tensor.copy_(old)
        return after

    replays = [partial(replay, number) for number in range(len(steps))]
    for step, graph in zip(steps, replays):
        pairs = [(a, b) for a, b in zip(changes(step), changes(graph)) if a.any() or b.any()]
        off = float(sum((a - b).norm() / a.norm() for a, b in pairs)) / len(pairs)
        if not off < 0.2:
            raise RuntimeError(f"a graph is off by {off:.3f}")
    return replays


def train(light, whole, pictures, minutes, batch, rate, graphs, checkpoint):
    """Trains the light network's weights and its matrices E for so long. Calls checkpoint(network) now and then, with
    weights that are averages over the last steps, and returns such a network."""
    average = Network(light.weights, dict(light.maps))
    light = Network({name: torch.nn.Parameter(tensor.clone()) for name, tensor in light.weights.items()},
                    {layer: torch.nn.Parameter(tensor.clone()) for layer, tensor in light.maps.items()})
    rates = torch.stack([rate * tensor.detach().abs().mean() for tensor in light.tensors()])
    current_rates = rates / 100
    groups = [dict(params=[tensor], lr=of_tensor) for tensor, of_tensor in zip(light.tensors(), current_rates)]
    on_gpu = pictures.device.type == "cuda"
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), fused=on_gpu, capturable=on_gpu)
    for tensor in light.tensors():
        tensor.grad = torch.zeros_like(tensor)

    # Several batches of images, of which each training step takes one: the same image is not seen in every step.
    # What bfloat16 does to the whole network's feature maps and gradients is far below the errors.
    fast = whole.cast(torch.bfloat16) if on_gpu else whole
    states = [Optimizations(pictures, fast, batch, seed) for seed in range(8)]
    images, share = pictures.varied(batch), torch.ones((), device=pictures.device)
    steps = [partial(training_step, light, average, share, fast, images, state, optimizer) for state in states]
    if on_gpu:  # What is done for the first time allocates what is kept and chooses the fastest convolutions.
        states[0].renew(0)
        for name in ("the first steps", "steps without graphs"):
            begun = time.time()
            for step in steps:
                step()
            torch.cuda.synchronize()
            print(f"{name}: {len(steps) / (time.time() - begun):.1f} a second", flush=True)
    if on_gpu and graphs:
        kept = [tensor for state in optimizer.state.values() for tensor in state.values()]
        of_states = [tensor for state in states for tensor in state.tensors()]
        try:
            steps = captured(steps, [*light.tensors(), *average.tensors(), *kept, *of_states])
        except Exception as problem:
            raise NoGraphs(repr(problem)) from problem
        print(f"graphs take {torch.cuda.memory_reserved() / 2 ** 30:.0f} GiB", flush=True)

    begun = reported = saved = now = time.time()
    done, done_reported, sums = 0, 0, 0
    while (elapsed := (now - begun) / (60 * minutes)) < 1:
        fade = max(0.01, 0.5 * (1 + math.cos(math.pi * elapsed))) * min(1, (done + 1) / 100)
        torch.mul(rates, fade, out=current_rates)
        share.fill_(AVERAGED / (AVERAGED + done))
        images.copy_(pictures.varied(batch))
        errors = steps[done % len(steps)]()
        states[done % len(steps)].renew_ended()
        sums = sums + torch.stack(list(errors.values()))

        done, now = done + 1, time.time()
        if now - reported > 10:
            means = [round(error, 4) for error in (sums / (done - done_reported)).tolist()]
            now = time.time()
            print(json.dumps(dict(steps=done, seconds=round(now - begun), steps_per_second=round(
                (done - done_reported) / (now - reported), 1), **dict(zip(errors, means)))), flush=True)
            sums, reported, done_reported = 0, now, done
        if now - saved > 30:
            checkpoint(average)
            saved = now
    print(f"{done} steps in {now - begun:.0f} s", flush=True)
    others = [layer for layer in LAYERS if layer not in STYLE_LAYERS]
    batches = [images for state in states for images in (pictures.varied(batch), state.image)]
    average.maps |= fit_maps(average, whole, batches, others)
    return average


@torch.no_grad()
def save(light, path):
    """Weights in float16, metrics in float32. A file that is there already is replaced at once or not at all."""
    tensors = {name: tensor.contiguous().cpu().numpy().astype(np.float16) for name, tensor in light.weights.items()}
    for layer in light.maps:
        matrix = light.maps[layer].double()
        tensors[f"relu{layer}.metric"] = (matrix.T @ matrix).float().cpu().numpy()
    save_file(tensors, path + ".part", metadata={
        "network": "vgg16-light", "input": "bgr-255-minus-mean", "mean_bgr": ",".join(map(str, MEAN_BGR)),
        "license": "CC BY 4.0, made from VGG16 by K. Simonyan and A. Zisserman"})
    os.replace(path + ".part", path)


# ---- Judge


def descend(objective, whole_objective, image, marks):
    """The whole network's loss of images after so many steps of Adam along the gradient of another objective."""
    first, second, losses = torch.zeros_like(image), torch.zeros_like(image), []
    b1, b2 = Optimizations.DECAYS
    for step in range(1, max(marks) + 1):
        image = image.detach().requires_grad_(True)
        features = objective.network(image)
        [gradient] = torch.autograd.grad(objective.loss(features, grams(features)).sum(), image)
        with torch.no_grad():
            first, second = b1 * first + (1 - b1) * gradient, b2 * second + (1 - b2) * gradient ** 2
            direction = first / (1 - b1 ** step) / ((second / (1 - b2 ** step)).sqrt() + 1e-12)
            image = (image - 8 * direction).clamp(0, 255)
            if step in marks:
                losses.append(typical(whole_objective, image))
    return losses


def typical(objective, image):
    """The geometric mean of losses: a few styles that are nearly plain have huge ones."""
    features = objective.network(image)
    return round(float(objective.loss(features, grams(features)).log().mean().exp()), 3)


def judge(light, whole, content, style):
    """Prints a table: the loss of VGG16 after some steps, along its own gradient and along the light network's."""
    marks = (1, 3, 10, 30, 100)
    with torch.no_grad():
        of_whole, of_light = (Objective.of_pictures(network, content, style) for network in (whole, light))
        start = typical(of_whole, content)
    print("steps", 0, *marks)
    print("whole", start, *descend(of_whole, of_whole, content, marks))
    print("light", start, *descend(of_light, of_whole, content, marks), flush=True)


def read(path, size, device):
    picture = cv2.imread(path)
    if picture is None:
        raise SystemExit(f"{path} is no picture")
    scale = size / max(picture.shape[:2])
    picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float().to(device)


def formula_image(number, height=24, width=32):
    """A small image that any program can make. The formula is that of plane c, with red as plane 0, row y, column x."""
    c, y, x = torch.meshgrid(torch.arange(3), torch.arange(height), torch.arange(width), indexing="ij")
    values = (x * (7 + number) + y * (13 + 2 * number) + x * y // 4 + 60 * c + 40 * number) % 256
    return values.flip(0)[None].float()


def reference(light):
    """Prints losses and gradients of formula_image(0) with content formula_image(1) and style formula_image(2)."""
    objective = Objective.of_pictures(light, formula_image(1), formula_image(2))
    image = formula_image(0).requires_grad_(True)
    features = light(image)
    losses = dict(content=objective.content_loss(features), style=objective.style_loss(grams(features)))
    for name, loss in losses.items():
        [gradient] = torch.autograd.grad(loss.sum(), image, retain_graph=True)
        pixels = {f"{y},{x}": [f"{value:.6e}" for value in gradient[0, :, y, x].flip(0).tolist()]
                  for y, x in ((0, 0), (5, 9), (12, 16), (23, 31))}
        print(json.dumps({name: loss.item(), "gradient_norm": gradient.norm().item(), "gradient_rgb_at_y,x": pixels}))


# ---- Command line


def run_train(arguments):
    torch.manual_seed(1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    device = torch.device(arguments.device)
    if device.type == "cuda":
        torch.cuda.set_stream(torch.cuda.Stream())  # On the default stream nothing can be captured.
    whole = Network.load(WHOLE_FILE, device)
    paths = sorted(glob(os.path.join(arguments.pictures, "*.jpg")))
    if not paths:
        raise SystemExit(f"no *.jpg in {arguments.pictures}")
    begun = time.time()
    # Every twentieth picture is not trained on, but judged by.
    unseen = Pictures(paths[::20], arguments.size, device, seed=1000)
    pictures = Pictures([path for path in paths if path not in paths[::20]], arguments.size, device, seed=1)
    print(f"{len(paths)} pictures in {time.time() - begun:.0f} s", flush=True)
    light = Network.load(arguments.start, device) if arguments.start else begin(whole, pictures.varied(48))
    light.maps = fit_maps(light, whole, [pictures.varied(arguments.batch) for _ in range(8)], STYLE_LAYERS)
    print(f"began after {time.time() - begun:.0f} s", flush=True)
    content, style = unseen.batch(arguments.batch, 0), unseen.batch(arguments.batch, 1)
    judge(light, whole, content, style)
    try:
        light = train(light, whole, pictures, arguments.minutes, arguments.batch, arguments.rate, arguments.graphs,
                      checkpoint=lambda network: save(network, arguments.out))
    except NoGraphs as problem:  # After that, nothing may work on the GPU in this process.
        print(f"CUDA graphs failed, beginning again without them: {problem}", flush=True)
        os.execv(sys.executable, [sys.executable, *sys.argv, "--no-graphs"])
    save(light, arguments.out)
    judge(light, whole, content, style)


def run_judge(arguments):
    device = torch.device(arguments.device)
    content, style = (read(path, arguments.size, device) for path in (arguments.content, arguments.style))
    judge(Network.load(arguments.light, device), Network.load(WHOLE_FILE, device), content, style)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("train")
    command.add_argument("pictures", help="a folder of photo-*.jpg and art-*.jpg")
    command.add_argument("out", help="the .safetensors file to write")
    command.add_argument("--start", metavar="LIGHT", help="train this network further instead of beginning a new one")
    command.add_argument("--minutes", type=float, default=6)
    command.add_argument("--rate", type=float, default=LEARNING_RATE,
                         help="how far weights move in each of the first steps, as a share of their mean size")
    command.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    command.add_argument("--no-graphs", dest="graphs", action="store_false", help="do without CUDA graphs")
    command.add_argument("--size", type=int, default=192, help="side of the images to train on")
    command.add_argument("--batch", type=int, default=16)
    command.set_defaults(run=run_train)
    command = commands.add_parser("judge")
    command.add_argument("light")
    command.add_argument("content")
    command.add_argument("style")
    command.add_argument("--size", type=int, default=256, help="long side of both pictures")
    command.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    command.set_defaults(run=run_judge)
    command = commands.add_parser("reference")
    command.add_argument("light")
    command.set_defaults(run=lambda arguments: reference(Network.load(arguments.light, "cpu")))
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
