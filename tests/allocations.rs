// SPDX-License-Identifier: MPL-2.0

//! An iteration allocates nothing, in whatever thread.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use gstneuralstyle::{
    Processor,
    image::Image,
    network::{Pooling, Vgg, parse_layers},
    objective::{FusedObjective, LossLayers, LossWeights, Objective},
    processor,
};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is the system allocator's; counting has no effect on it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller vouches for the layout.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller vouches for the pointer and its layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn iterations_allocate_nothing() {
    let vgg = Arc::new(Vgg::built_in().unwrap());
    let layers = LossLayers {
        content_layers: parse_layers("relu3_3").unwrap(),
        style_layers: parse_layers("relu1_2, relu2_2, relu3_3, relu4_3").unwrap(),
        pooling: Pooling::Max,
    };
    let (content, image) = (Image::filled(70, 50, 90.0), Image::filled(70, 50, 120.0));
    let mut gradient = image.clone();
    let weights = LossWeights { content: 1.0, style: 10.0 };
    for kind in processor::available() {
        let mut objective = FusedObjective::new(vgg.clone(), layers.clone(), Processor::new(kind, 2).unwrap()).unwrap();
        let grams = objective.grams(&content).unwrap();
        objective.set_style(&grams).unwrap();
        objective.set_content(&content).unwrap();
        objective.evaluate(&image, weights, &mut gradient).unwrap();

        let before = ALLOCATIONS.load(Ordering::Relaxed);
        objective.set_content(&content).unwrap();
        for _ in 0..3 {
            objective.evaluate(&image, weights, &mut gradient).unwrap();
        }
        assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0, "{kind:?}");
    }
}
