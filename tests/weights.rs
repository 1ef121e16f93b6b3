// SPDX-License-Identifier: MPL-2.0

//! Weights files of both namings, and broken ones.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use candle_core::{DType, Device, Tensor};
use gstneuralstyle::{
    Processor,
    image::Image,
    network::{Layer, Pooling, Vgg, parse_layers},
    objective::{LossLayers, Objective, ReferenceObjective},
};

type Tensors = HashMap<String, Tensor>;

/// What torchvision calls the convolutions of VGG16 up to conv4_3.
const TORCHVISION: [usize; 10] = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21];

fn built_in_tensors() -> Tensors {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/weights/vgg16-features.safetensors");
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

struct File {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

fn write(tensors: &Tensors) -> File {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("weights.safetensors");
    candle_core::safetensors::save(tensors, &path).unwrap();
    File { _directory: directory, path }
}

/// What is said of the weights after a change; it always names the file.
fn fault(change: impl FnOnce(&mut Tensors)) -> String {
    let mut tensors = built_in_tensors();
    change(&mut tensors);
    let message = Vgg::from_file(write(&tensors).path).unwrap_err().to_string();
    assert!(message.contains("weights.safetensors"), "{message}");
    message
}

#[test]
fn the_built_in_weights_are_vgg16_up_to_relu4_3() {
    let vgg = Vgg::built_in().unwrap();
    let names: Vec<String> = vgg.layers().iter().map(Layer::to_string).collect();
    let expected = "relu1_1 relu1_2 relu2_1 relu2_2 relu3_1 relu3_2 relu3_3 relu4_1 relu4_2 relu4_3";
    assert_eq!(names.join(" "), expected);
    // The first kernel for blue, as Keras prints it for VGG16(weights="imagenet"): planes are red, green, blue here.
    assert!((vgg.convolutions()[0].weight[2 * 9] - 0.42947057).abs() < 1e-3);
    let from_file = Vgg::from_file(write(&built_in_tensors()).path).unwrap();
    assert_eq!(from_file.convolutions()[9].weight, vgg.convolutions()[9].weight);
    assert_eq!(from_file.mean(), vgg.mean());
}

#[test]
fn both_conventions_describe_the_same_network() {
    // The same network for torchvision's input: planes in the order red, green, blue, divided by 255 and their
    // deviation. Only the mean, which is part of that convention, stays another one.
    let mut torchvision = Tensors::new();
    let caffe = built_in_tensors();
    let blocks = [(1, 2), (2, 2), (3, 3), (4, 3)];
    let names = blocks.iter().flat_map(|&(block, depth)| (1..=depth).map(move |n| format!("conv{block}_{n}")));
    for (name, number) in names.zip(TORCHVISION) {
        let mut weight = caffe[&format!("{name}.weight")].to_dtype(DType::F32).unwrap();
        if number == 0 {
            let deviation =
                Tensor::new(&[0.229f32, 0.224, 0.225], &Device::Cpu).unwrap().reshape((1, 3, 1, 1)).unwrap();
            weight = weight.flip(&[1]).unwrap().broadcast_mul(&(deviation * 255.0).unwrap()).unwrap();
        }
        torchvision.insert(format!("features.{number}.weight"), weight);
        torchvision.insert(format!("features.{number}.bias"), caffe[&format!("{name}.bias")].clone());
    }
    torchvision.insert("classifier.0.weight".to_owned(), Tensor::zeros((2, 2), DType::F32, &Device::Cpu).unwrap());
    let torchvision = Vgg::from_file(write(&torchvision).path).unwrap();
    let caffe = Vgg::built_in().unwrap();
    assert_eq!(torchvision.layers(), caffe.layers());
    for (one, other) in torchvision.convolutions().iter().zip(caffe.convolutions()) {
        assert_eq!(one.bias, other.bias);
        assert!(one.weight.iter().zip(&other.weight).all(|(a, b)| (a - b).abs() < 1e-6));
    }
    for (mean, expected) in torchvision.mean().iter().zip([123.675, 116.28, 103.53]) {
        assert!((mean - expected).abs() < 1e-3);
    }
}

#[test]
fn vgg19_has_its_fourth_convolutions() {
    let mut tensors = built_in_tensors();
    let more = |tensors: &mut Tensors, name: &str, from: &str| {
        for part in ["weight", "bias"] {
            let tensor = tensors[&format!("{from}.{part}")].clone();
            tensors.insert(format!("{name}.{part}"), tensor);
        }
    };
    more(&mut tensors, "conv3_4", "conv3_3");
    more(&mut tensors, "conv4_4", "conv4_3");
    for n in 1..=4 {
        more(&mut tensors, &format!("conv5_{n}"), "conv4_3");
    }
    let vgg = Vgg::from_file(write(&tensors).path).unwrap();
    assert_eq!(vgg.layers().len(), 16);
    let layers = LossLayers::new(vec![], parse_layers("relu3_4,relu5_4").unwrap(), Pooling::Max);
    let mut objective = ReferenceObjective::new(vgg, layers, Processor::detect(1).unwrap()).unwrap();
    let grams = objective.grams(&Image::filled(32, 32, 50.0)).unwrap();
    assert_eq!(grams.iter().map(|gram| gram.values.len()).collect::<Vec<_>>(), [256 * 256, 512 * 512]);
}

#[test]
fn a_network_may_end_early_but_have_no_gap() {
    let mut tensors = built_in_tensors();
    tensors.retain(|name, _| name < &"conv3".to_owned());
    assert_eq!(Vgg::from_file(write(&tensors).path).unwrap().layers().len(), 4);

    let message = fault(|tensors| drop(tensors.remove("conv2_2.weight")));
    assert!(message.contains("conv2_2.weight") && message.contains("missing"), "{message}");
    let message = fault(|tensors| drop(tensors.remove("conv3_1.bias")));
    assert!(message.contains("conv3_1.bias") && message.contains("missing"), "{message}");
    let message = fault(|tensors| tensors.retain(|name, _| name.starts_with("conv4")));
    assert!(message.contains("conv1_1.weight") && message.contains("missing"), "{message}");
    let message = fault(Tensors::clear);
    assert!(message.contains("conv1_1.weight") && message.contains("features.0.weight"), "{message}");
}

#[test]
fn channel_counts_come_from_the_file() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let mut tensors = Tensors::new();
    for (name, inputs, outputs) in [("conv1_1", 3, 96), ("conv1_2", 96, 32), ("conv2_1", 32, 64)] {
        tensors.insert(format!("{name}.weight"), zeros(&[outputs, inputs, 3, 3]));
        tensors.insert(format!("{name}.bias"), zeros(&[outputs]));
    }
    let vgg = Vgg::from_file(write(&tensors).path).unwrap();
    let channels: Vec<_> = vgg.layers().iter().map(|layer| vgg.channels(*layer)).collect();
    assert_eq!(channels, [Some(96), Some(32), Some(64)]);
    assert_eq!(vgg.channels("relu2_2".parse().unwrap()), None);
    let layers = LossLayers::new(vec![], vgg.layers().to_vec(), Pooling::Max);
    let mut objective = ReferenceObjective::new(vgg, layers, Processor::detect(1).unwrap()).unwrap();
    let grams = objective.grams(&Image::filled(16, 16, 50.0)).unwrap();
    assert_eq!(grams.iter().map(|gram| gram.values.len()).collect::<Vec<_>>(), [96 * 96, 32 * 32, 64 * 64]);
}

#[test]
fn wrong_shapes_and_values_are_named() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    for (name, shape) in [("conv2_1.weight", [128, 32, 3, 3]), ("conv4_3.weight", [500, 512, 3, 3])] {
        let message = fault(|tensors| drop(tensors.insert(name.to_owned(), zeros(&shape))));
        assert!(message.contains(name) && message.contains(&format!("{shape:?}")), "{message}");
    }
    let message = fault(|tensors| drop(tensors.insert("conv3_2.weight".to_owned(), zeros(&[256, 256, 5, 5]))));
    assert!(message.contains("conv3_2.weight") && message.contains("[256, 256, 5, 5]"), "{message}");
    let message = fault(|tensors| drop(tensors.insert("conv1_2.bias".to_owned(), zeros(&[63]))));
    assert!(message.contains("conv1_2.bias") && message.contains("[64]"), "{message}");
    for value in [f32::NAN, f32::INFINITY] {
        let mut bias = vec![0.0f32; 128];
        bias[77] = value;
        let bias = Tensor::from_vec(bias, 128, &Device::Cpu).unwrap();
        let message = fault(|tensors| drop(tensors.insert("conv2_1.bias".to_owned(), bias)));
        assert!(message.contains("conv2_1.bias") && message.contains("value 77"), "{message}");
    }
}

#[test]
fn files_that_are_no_safetensors_are_refused() {
    let file = write(&built_in_tensors());
    let whole = std::fs::read(&file.path).unwrap();
    for broken in [&whole[..0], &whole[..5], &whole[..200], &whole[..whole.len() - 1], b"no tensors in here at all"] {
        std::fs::write(&file.path, broken).unwrap();
        let message = Vgg::from_file(&file.path).unwrap_err().to_string();
        assert!(message.contains("weights.safetensors"), "{message}");
    }
    let mut huge_header = whole;
    huge_header[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    std::fs::write(&file.path, huge_header).unwrap();
    assert!(Vgg::from_file(&file.path).is_err());
    let message = Vgg::from_file("/no/such/file.safetensors").unwrap_err().to_string();
    assert!(message.contains("/no/such/file.safetensors"), "{message}");
}

#[test]
fn weights_are_shared_while_they_are_in_use() {
    let weights = Vgg::built_in().unwrap();
    assert!(Arc::ptr_eq(&weights, &Vgg::built_in().unwrap()));
    let tensors = built_in_tensors();
    let [one, same] = [write(&tensors), write(&tensors)].map(|file| Vgg::from_file(file.path).unwrap());
    assert!(Arc::ptr_eq(&one, &same) && !Arc::ptr_eq(&one, &weights));
    let weak = Arc::downgrade(&one);
    drop((one, same));
    assert!(weak.upgrade().is_none());
}

fn light_tensors() -> Tensors {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/weights/vgg16-light.safetensors");
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

#[test]
fn the_light_network_has_half_of_the_channels_and_metrics() {
    let (light, whole) = (Vgg::light().unwrap(), Vgg::built_in().unwrap());
    assert_eq!(light.layers(), whole.layers());
    assert_eq!(light.mean(), whole.mean());
    let from_file = Vgg::from_file(write(&light_tensors()).path).unwrap();
    for &layer in light.layers() {
        let channels = light.channels(layer).unwrap();
        assert_eq!(2 * channels, whole.channels(layer).unwrap());
        assert_eq!(light.metric(layer).unwrap().len(), channels * channels);
        assert_eq!(from_file.metric(layer), light.metric(layer));
        assert_eq!(whole.metric(layer), None);
    }
    assert_eq!(light.metric("relu5_1".parse().unwrap()), None);
}

#[test]
fn metrics_that_make_no_sense_are_named() {
    let zeros = |side: usize| Tensor::zeros((side, side), DType::F32, &Device::Cpu).unwrap();
    let metric = |at: (usize, usize), value: f32| {
        let mut values = vec![0.0f32; 64 * 64];
        (0..64).for_each(|n| values[n * 65] = 2.0);
        values[at.0 * 64 + at.1] = value;
        Tensor::from_vec(values, (64, 64), &Device::Cpu).unwrap()
    };
    for (tensor, problem) in [
        (zeros(32), "[32, 32], [64, 64] is wanted"),
        (metric((3, 7), 1.0), "not symmetric: see row 3, column 7"),
        (metric((1, 1), f32::NAN), "value 65 is NaN"),
    ] {
        let mut tensors = light_tensors();
        tensors.insert("relu2_2.metric".to_owned(), tensor);
        let message = Vgg::from_file(write(&tensors).path).unwrap_err().to_string();
        let named = ["weights.safetensors", "relu2_2.metric", problem];
        assert!(named.iter().all(|part| message.contains(part)), "{message}");
    }
}
