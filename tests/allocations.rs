// SPDX-License-Identifier: MPL-2.0

//! An iteration allocates nothing, in whatever thread.

mod counting;

use std::sync::atomic::Ordering;

use gstneuralstyle::{
    Processor,
    image::Image,
    network::Vgg,
    objective::{self, Device, LossWeights, Start, StepLength},
    processor,
    stylizer::Settings,
};

use counting::ALLOCATIONS;

#[test]
fn iterations_allocate_nothing() {
    let layers = Settings::default().layers;
    let (content, image) = (Image::filled(70, 50, 90.0), Image::filled(70, 50, 120.0));
    let weights = LossWeights::new(1.0, 10.0).with_total_variation(3.0).with_temporal(30.0);
    let length = StepLength::new(1.0, 2.0);
    let networks = [Vgg::built_in().unwrap(), Vgg::light().unwrap()];
    for (vgg, kind) in networks.iter().flat_map(|vgg| processor::available().map(move |kind| (vgg, kind))) {
        let processor = Processor::new(kind, 2).unwrap();
        let mut objective = objective::open(vgg.clone(), layers.clone(), &Device::Cpu, &processor).unwrap();
        let grams = objective.grams(&content).unwrap();
        objective.set_style(&grams).unwrap();
        objective.set_content(&content).unwrap();
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        objective.set_content(&content).unwrap();
        assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0, "{kind:?}");

        let mut start = Start::from(image.clone());
        start.trust = Some(vec![0.5; 70 * 50]);
        let mut optimization = objective.optimize(start).unwrap();
        optimization.step(length, &weights).unwrap();
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for _ in 0..3 {
            optimization.step(length, &weights).unwrap();
        }
        assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0, "{kind:?}");
    }
}
