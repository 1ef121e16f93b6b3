// SPDX-License-Identifier: MPL-2.0

//! The memory that painting takes: as much as predicted, and no more than there is.

mod counting;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering};

use gstneuralstyle::{
    Error, Processor,
    image::{Frame, PackedFormat, Picture},
    network::{Vgg, parse_layers},
    objective::Device,
    style,
    stylizer::{Settings, Stylizer, WarmStart, live::Preparation},
};

use counting::{NOW, PEAK};

/// Waits until no other test runs: all memory is counted together.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a job, and returns the bytes that it allocates: at its peak, and those that are left.
fn allocated<T>(job: impl FnOnce() -> T) -> (T, usize, usize) {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let result = job();
    (result, PEAK.load(Ordering::Relaxed) - before, NOW.load(Ordering::Relaxed).saturating_sub(before))
}

fn stylizer(weights: &Arc<Vgg>, settings: Settings, threads: usize, picture: (usize, usize)) -> Stylizer {
    let processor = Processor::detect(threads).unwrap();
    let mut stylizer = Stylizer::new(weights.clone(), Device::Cpu, processor, settings).unwrap();
    let pixels = (0..3 * picture.0 * picture.1).map(|n| (n * 7919 % 251) as u8).collect();
    stylizer.set_style(Picture::new(picture.0, picture.1, pixels).unwrap()).unwrap();
    stylizer
}

fn stylize(stylizer: &mut Stylizer, (width, height): (usize, usize), shift: usize) -> Result<(), Error> {
    let mut pixels: Vec<u8> = (0..4 * width * height).map(|n| ((n / 4 + shift) % width) as u8).collect();
    let mut frame = Frame::new(&mut pixels, (width, height), 4 * width, PackedFormat::RGBX).unwrap();
    stylizer.stylize(&mut frame).map(|_| ())
}

#[test]
fn packed_filters_are_counted_by_who_packs_them() {
    let _alone = alone();
    let weights = Vgg::built_in().unwrap();
    let (size, picture) = ((160, 90), (64, 64));
    let mut shallow = Settings::default();
    shallow.layers.style_layers = parse_layers("relu1_2,relu2_2,relu3_3").unwrap();
    let mut first = stylizer(&weights, shallow.clone(), 1, picture);
    let deep = Settings::default();
    let before = first.memory_for(&deep, size).unwrap();
    let ((), _, packed) = allocated(|| first.set_settings(deep.clone()).unwrap());
    let after = first.memory_for(&deep, size).unwrap();
    // conv4_1 to conv4_3, in both directions.
    let filters = 2 * 2 * 9 * (256 * 512 + 2 * 512 * 512);
    assert_eq!(before - after, filters);
    assert!(packed as u64 >= filters, "{packed}");
    let (second, _, taken) = allocated(|| stylizer(&weights, deep.clone(), 1, picture));
    assert!((taken as u64) < filters / 4, "{taken}");
    assert_eq!(second.memory_for(&deep, size), Some(after));
    assert_eq!(second.memory_for(&shallow, size), first.memory_for(&shallow, size));
}

type Network = fn() -> Result<Arc<Vgg>, Error>;

#[test]
fn painting_takes_as_much_as_predicted() {
    let _alone = alone();
    let (vgg16, light): (Network, Network) = (Vgg::built_in, Vgg::light);
    type Change = fn(&mut Settings);
    let changes: [(Network, _, Change, _, _); 7] = [
        (vgg16, (320, 180), |_| {}, 2, (320, 200)),
        // A style that is larger than the frame, and one that is kept larger than it is used.
        (vgg16, (360, 96), |_| {}, 1, (360, 360)),
        (vgg16, (320, 180), |settings| settings.working_size = 160, 2, (1500, 1000)),
        (vgg16, (160, 90), |settings| settings.style_scale = 3.0, 2, (320, 200)),
        (vgg16, (640, 360), |settings| settings.working_size = 320, 5, (640, 400)),
        (vgg16, (200, 300), |settings| settings.warm_start = WarmStart::None, 2, (320, 200)),
        (light, (320, 180), |_| {}, 2, (320, 200)),
    ];
    for (network, size, change, threads, picture) in changes {
        let mut settings = Settings::default();
        (settings.iterations, settings.first_iterations) = (1, 1);
        change(&mut settings);
        let weights = network().unwrap();
        // Its filters are packed before, and shared.
        let _other = self::stylizer(&weights, settings.clone(), 1, (64, 64));
        let (predicted, peak, _) = allocated(|| {
            let mut stylizer = stylizer(&weights, settings.clone(), threads, picture);
            for frame in 0..3 {
                stylize(&mut stylizer, size, frame).unwrap();
            }
            stylizer.memory_for(&settings, size).unwrap() as f64
        });
        // The frame is not the stylizer's.
        let peak = (peak - 4 * size.0 * size.1) as f64;
        // What is predicted is the sum of peaks that do not all come at the same time.
        assert!((0.75..1.05).contains(&(peak / predicted)), "{size:?}, {settings:?}: {peak} of {predicted}");
    }
}

#[test]
fn more_than_there_is_is_refused() {
    let _alone = alone();
    let weights = Vgg::built_in().unwrap();
    let mut settings = Settings::default();
    settings.memory_limit = 1 << 30;
    let mut stylizer = stylizer(&weights, settings.clone(), 1, (64, 64));
    let size = (7680, 4320);
    let (error, peak, _) = allocated(|| stylizer.prepare(size).unwrap_err());
    assert!(peak < 1 << 20, "{peak}");
    let message = error.to_string();
    assert!(message.contains("7680x4320") && message.contains("1.07 GB"), "{message}");
    let Error::Memory { largest: Some(largest), needed, .. } = error else { panic!("{message}") };
    assert_eq!(stylizer.memory_for(&settings, size), Some(needed));
    let need_at = |working_size| {
        let mut settings = settings.clone();
        settings.working_size = working_size;
        stylizer.memory_for(&settings, size).unwrap()
    };
    assert!(need_at(largest) <= 1 << 30 && need_at(largest + 1) > 1 << 30, "{largest}");

    settings.memory_limit = 1;
    stylizer.set_settings(settings.clone()).unwrap();
    assert!(matches!(stylizer.prepare((640, 360)), Err(Error::Memory { largest: None, .. })));

    // Smaller frames are painted, and go on after settings that do not fit were refused. A lower limit takes nothing back.
    (settings.memory_limit, settings.working_size, settings.first_iterations) = (1 << 30, 64, 1);
    stylizer.set_settings(settings.clone()).unwrap();
    stylize(&mut stylizer, (640, 360), 0).unwrap();
    settings.memory_limit = 1;
    stylizer.set_settings(settings.clone()).unwrap();
    settings.working_size = 0;
    assert!(matches!(stylizer.set_settings(settings), Err(Error::Memory { largest: Some(64), .. })));
    stylize(&mut stylizer, (640, 360), 0).unwrap();
}

#[test]
fn a_style_is_not_prepared_beside_the_frames_without_memory_for_both() {
    let _alone = alone();
    let weights = Vgg::built_in().unwrap();
    let mut settings = Settings::default();
    (settings.working_size, settings.first_iterations) = (128, 1);
    let mut stylizer = stylizer(&weights, settings.clone(), 1, (64, 64));
    stylize(&mut stylizer, (160, 90), 0).unwrap();
    let needed = stylizer.memory_for(&settings, (160, 90)).unwrap();
    for (limit, fits) in [(needed, false), (2 * needed, true)] {
        settings.memory_limit = limit;
        let preparation = Preparation::new(&stylizer, &settings).unwrap().unwrap();
        let (result, peak, _) = allocated(|| preparation.run(None));
        assert_eq!(result.is_ok(), fits);
        assert!(
            fits || matches!(result, Err(Error::Memory { available, .. }) if available == needed && peak < 1 << 20)
        );
    }
}

#[test]
fn no_machine_has_enough_for_what_is_absurd() {
    let _alone = alone();
    let weights = Vgg::built_in().unwrap();
    let mut stylizer = stylizer(&weights, Settings::default(), 1, (64, 64));
    for size in [(1 << 17, 1 << 17), (1 << 31, 16), (1 << 31, 1 << 31)] {
        let (error, peak, _) = allocated(|| stylizer.prepare(size).unwrap_err());
        assert!(matches!(error, Error::Memory { .. }) && peak < 1 << 20, "{error}, {peak}");
    }
}

#[test]
fn a_style_is_kept_in_3_bytes_a_pixel_and_decoded_without_more_than_twice_as_many() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("large.png");
    for (side, kept_side) in [(2048, 2048), (5000, 4096)] {
        image::RgbImage::new(side, side).save(&path).unwrap();
        let (picture, peak, kept) = allocated(|| style::load(path.to_str().unwrap()).unwrap());
        assert_eq!(picture.size(), (kept_side, kept_side));
        let (bytes, kept_bytes) = (3 * (side * side) as usize, 3 * kept_side * kept_side);
        let slack = 4 << 20;
        assert!(kept < kept_bytes + slack && peak < bytes + kept_bytes + slack, "{side}: {kept}, {peak}");
    }
}
